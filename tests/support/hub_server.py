"""A Hugging Face hub on localhost that serves folders as repositories, so that the real client can run."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def digest(path: Path) -> str:
    """A stand-in for the git hash of a blob."""
    return hashlib.sha1(path.read_bytes()).hexdigest()


@contextmanager
def serve(repositories: dict[str, Path], cut: int | None = None) -> Iterator[tuple[str, list[str]]]:
    """Yields the endpoint's URL and the growing list of files that were fetched.

    `cut`: bytes of an answer after which the connection breaks.
    """
    fetched: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: object) -> None:
            pass

        def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body[:cut])
                self.close_connection = len(body[:cut]) < len(body)

        def do_GET(self) -> None:
            for name, folder in repositories.items():
                if self.path.startswith(f"/api/models/{name}/revision/"):
                    files = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
                    siblings = [{"rfilename": file} for file in files]
                    info = {"id": name, "sha": COMMIT, "siblings": siblings}
                    return self.reply(200, json.dumps(info).encode(), Content_Type="application/json")
                if self.path.startswith(f"/api/models/{name}/tree/"):
                    entries = [
                        {
                            "type": "file",
                            "path": str(p.relative_to(folder)),
                            "size": p.stat().st_size,
                            "oid": digest(p),
                        }
                        for p in sorted(folder.rglob("*"))
                        if p.is_file()
                    ]
                    return self.reply(200, json.dumps(entries).encode(), Content_Type="application/json")
                if self.path.startswith(f"/{name}/resolve/"):
                    file = self.path.split("/resolve/")[1].partition("/")[2]
                    if (folder / file).is_file():
                        body = (folder / file).read_bytes()
                        if self.command == "GET":
                            fetched.append(file)
                        etag = f'"{digest(folder / file)}"'
                        return self.reply(200, body, ETag=etag, X_Repo_Commit=COMMIT)
                    return self.reply(404, X_Error_Code="EntryNotFound")
            return self.reply(404, X_Error_Code="RepoNotFound")

        do_HEAD = do_GET

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", fetched
    finally:
        server.shutdown()
        server.server_close()
