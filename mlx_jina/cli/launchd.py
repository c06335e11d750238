"""`mlx-jina service`: the server as a launchd agent, which macOS starts at login and after a crash.

launchd.plist(5), launchctl(1).
"""

from __future__ import annotations

import http.client
import os
import plistlib
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mlx_jina import catalog
from mlx_jina.errors import InputError, MlxJinaError
from mlx_jina.weights import hub

LABEL = "local.mlx-jina.serve"
# Variables that say where models are, and what opens notes. The agent passes them on, since launchd does not know
# a shell's environment.
VARIABLES = ("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "MLX_JINA_URI")
# Seconds to wait for the server to start, and to stop; launchd kills a process 20 seconds after the request.
SECONDS = 30


def plist_path() -> Path:
    """Where launchd looks for the agent."""
    return Path.home() / "Library" / "LaunchAgents" / f"{LABEL}.plist"


def log_path() -> Path:
    """The file that the server logs to."""
    return Path.home() / "Library" / "Logs" / "mlx-jina" / "serve.log"


def absolute(argument: str) -> str:
    """An argument of `serve`, with a path made absolute, because launchd starts agents in another folder."""
    alias, name = hub.split_alias(argument)
    path = Path(os.path.expanduser(name))
    if catalog.find(name) is not None or not path.exists():
        return argument
    return f"{alias}={path.absolute()}" if alias else str(path.absolute())


def agent(arguments: Sequence[str]) -> dict[str, Any]:
    """The agent that runs `mlx-jina serve` with the arguments. launchd expands neither ~ nor variables."""
    return {
        "Label": LABEL,
        "ProgramArguments": [sys.executable, "-m", "mlx_jina", "serve", *arguments],
        "EnvironmentVariables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "WorkingDirectory": str(Path.home()),
        "RunAtLoad": True,
        # launchd restarts a server that crashed, once in so many seconds at most, and none that ended well.
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": 30,
        # Interactive, because macOS slows down the processor and the disk for background agents.
        "ProcessType": "Interactive",
        "StandardOutPath": str(log_path()),
        "StandardErrorPath": str(log_path()),
    }


def install(arguments: Sequence[str], host: str, port: int) -> None:
    """Write the agent, start it, and wait until it answers. Replaces an older agent."""
    if shutil.which("launchctl") is None:
        raise InputError(
            "services are launchd's, and this is no macOS; run `mlx-jina serve` from a systemd unit or the like"
        )
    _stop()
    if _answers(host, port):
        raise InputError(f"something already answers at {host} port {port}; stop it, or choose another --port")
    path, beside = plist_path(), plist_path().with_suffix(".partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    log_path().parent.mkdir(parents=True, exist_ok=True)
    beside.write_bytes(plistlib.dumps(agent(arguments)))
    beside.replace(path)
    try:
        print(_start(path, host, port))
    except MlxJinaError:
        # launchd would otherwise try the agent again and again, and after every login.
        _stop()
        path.unlink()
        raise


def _start(path: Path, host: str, port: int) -> str:
    """How far the server came within the time to start."""
    loaded = _launchctl("bootstrap", _domain(), str(path))
    if loaded.returncode:
        raise MlxJinaError(f"launchctl bootstrap failed: {loaded.stderr.strip() or loaded.returncode}")
    _wait(lambda: _answers(host, port) or _failed())
    if _failed():
        last = log_path().read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]
        raise MlxJinaError(f"the server ended at once: {last or 'without a word'} ({log_path()})")
    how = "answers" if _answers(host, port) else "is still starting"
    return f"the server {how} at http://{host}:{port}; it starts at every login; log: {log_path()}"


def _failed() -> bool:
    """Whether the agent has ended with an error; launchd says "(never exited)" of one that has not."""
    return re.match("-?[1-9]", _described().get("last exit code", "")) is not None


def uninstall() -> None:
    """Stop the agent and remove it."""
    _stop()
    if not plist_path().exists():
        raise InputError(f"no service is installed ({plist_path()} does not exist)")
    plist_path().unlink()
    print("stopped and removed")


def status() -> bool:
    """Print the state of the agent. Returns whether it runs."""
    if not plist_path().exists():
        print("not installed")
        return False
    command = plistlib.loads(plist_path().read_bytes())["ProgramArguments"]
    rows = _described()
    for key, value in {**rows, "command": " ".join(command), "log": str(log_path())}.items():
        print(f"{key:<14}  {value}")
    return rows["state"] == "running"


def _described() -> dict[str, str]:
    """The agent in the words of launchd."""
    said = _launchctl("print", f"{_domain()}/{LABEL}").stdout
    found = {
        key: re.search(rf"^\s*{key} = (.+)$", said, re.MULTILINE) for key in ("state", "pid", "last exit code")
    }
    return {key: match[1] for key, match in found.items() if match} or {"state": "not loaded"}


def _domain() -> str:
    return f"gui/{os.getuid()}"


def _launchctl(*arguments: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("launchctl") is None:
        return subprocess.CompletedProcess(arguments, 1, "", "launchctl is not here")
    return subprocess.run(["launchctl", *arguments], capture_output=True, text=True, check=False)


def _stop() -> None:
    """Unload the agent. After `launchctl stop` launchd would start it again."""
    service = f"{_domain()}/{LABEL}"
    _launchctl("bootout", service)
    if not _wait(lambda: _launchctl("print", service).returncode != 0):
        raise MlxJinaError(f"the running service does not stop after {SECONDS} s; see {log_path()}")


def _answers(host: str, port: int) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=1)
    try:
        connection.request("GET", "/health")
        connection.getresponse()
    except OSError:
        return False
    except http.client.HTTPException:
        # Another program listens on the port.
        return True
    finally:
        connection.close()
    return True


def _wait(condition: Callable[[], bool]) -> bool:
    ends = time.monotonic() + SECONDS
    while not (met := condition()) and time.monotonic() < ends:
        time.sleep(0.1)
    return met
