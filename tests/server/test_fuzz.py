"""Whatever fits the OpenAPI document, and much that does not, gets an answer that the document names."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.process import Server

# That nothing lenient is accepted is not among them: "64" for 64 is.
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


@pytest.mark.slow
@pytest.mark.skipif(find_spec("schemathesis") is None, reason="needs schemathesis")
def test_fuzz(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "bread.md").write_text("# Bread\n\nFeed the starter.\n")
    home = {**os.environ, "XDG_DATA_HOME": str(tmp_path / "data")}
    options = ("--preload", "--max-body", "1", "--index", tmp_path / "notes")
    with Server(f"tiny={folder}", *options, env=home) as server:
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json"]
        checks = ["--checks", CHECKS, "--max-examples", "200", "--seed", "1", "--request-timeout", "300"]
        done = subprocess.run(
            [*command, *checks],
            cwd=tmp_path,
            env=os.environ | {"NO_COLOR": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        assert "passed" in done.stdout
        assert server.client.get("/health").status_code == 200
        assert server.metric("requests_under_way") == 0
        assert "Traceback" not in server.log
