"""A stand-in for launchctl: `bootstrap` starts the program of a plist, `bootout` ends the program."""

from __future__ import annotations

import os
import plistlib
import signal
import subprocess
import sys
import time
from pathlib import Path

STATE = Path.home() / "launchd"


def runs(pid: str) -> bool:
    """Whether the process runs; a zombie, which ended and was not waited for, does not."""
    said = subprocess.run(["ps", "-o", "stat=", "-p", pid], capture_output=True, text=True, check=False).stdout
    return said.strip() != "" and not said.startswith("Z")


def main(verb: str, target: str, plist: str = "") -> int:
    """Run a command with launchctl's exit statuses."""
    if verb == "bootstrap":
        agent = plistlib.loads(Path(plist).read_bytes())
        if STATE.exists():
            print("Bootstrap failed: 5: Input/output error", file=sys.stderr)
            return 5
        # launchd gives an agent next to nothing of the user's environment.
        kept = {name: os.environ[name] for name in ("HOME", "LD_LIBRARY_PATH") if name in os.environ}
        with open(agent["StandardErrorPath"], "a") as log:
            process = subprocess.Popen(
                agent["ProgramArguments"],
                stdout=log,
                stderr=log,
                cwd=agent["WorkingDirectory"],
                env=kept | agent["EnvironmentVariables"],
                start_new_session=True,
            )
        STATE.write_text(f"{process.pid} {agent['Label']}")
        return 0
    if not STATE.exists():
        return 3 if verb == "bootout" else 113
    pid, label = STATE.read_text().split()
    assert target == f"gui/{os.getuid()}/{label}", target
    if verb == "print":
        if runs(pid):
            print(f"{target} = {{\n\tstate = running\n\tpid = {pid}\n\tlast exit code = (never exited)\n}}")
        else:
            print(f"{target} = {{\n\tstate = spawn scheduled\n\tlast exit code = 1\n}}")
        return 0
    if runs(pid):
        os.kill(int(pid), signal.SIGTERM)
    while runs(pid):
        time.sleep(0.05)
    STATE.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
