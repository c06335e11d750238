"""Pages: their examples run as they stand, and commands, options, links and messages in them exist."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import PIL.Image
import pytest
from click.testing import CliRunner
from huggingface_hub import constants

import mlx_jina
from mlx_jina import catalog
from mlx_jina.cli import app, launchd
from tests.support import (
    checkpoints,
    colbert_checkpoints,
    omni_checkpoints,
    reranker_checkpoints,
    v3_checkpoints,
    v4_checkpoints,
)
from tests.support.process import Server
from tests.test_layers import LEVEL

ROOT = Path(__file__).parents[1]
PACKAGE = Path(mlx_jina.__file__).parent
README = ROOT / "README.md"
FOLDERS = ("", "docs/**/", "bench/", "convert/", "mlx_jina/pocket/")
PAGES = sorted(page for folder in FOLDERS for page in ROOT.glob(f"{folder}*.md"))
COMMAND_LINE = ROOT / "docs" / "command-line.md"
BLOB = "https://github.com/mlx-jina/mlx-jina/blob/main/"

# Options that are no option of `mlx-jina`'s commands: of `python -m bench.all`, pip, mlx.launch, llama.cpp.
OTHERS_OPTIONS = {
    "--group",
    "--help",
    "--hostfile",
    "--lengths",
    "--lora",
    "--only",
    "--passes",
    "--quick",
    "--rerank",
    "--sts",
    "--version",
}


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    """Fenced code of one language, also within a list."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", read(page), flags=re.DOTALL | re.MULTILINE)
    return [re.sub(rf"^{indent}", "", code, flags=re.MULTILINE) for indent, code in found]


def pages_with(language: str) -> list[Path]:
    return [page for page in PAGES if blocks(page, language)]


def page_name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


by_page = pytest.mark.parametrize("page", PAGES, ids=page_name)


# ---- examples


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face cache that holds tiny models under the names of Jina's."""
    cache = tmp_path_factory.mktemp("cache")
    makers: dict[str, Callable[[Path], Path]] = {
        "v2-base-en": checkpoints.tiny_jina_bert,
        "v3": v3_checkpoints.original,
        "colbert-v2": colbert_checkpoints.v2,
        "v4": v4_checkpoints.v4,
        "v5-omni-small": lambda folder: omni_checkpoints.omni(folder, "small"),
        "v5-small": checkpoints.v5_small,
        "jina-reranker-v1-tiny-en": reranker_checkpoints.v1,
        "jina-reranker-v3": reranker_checkpoints.v3,
        "Qwen3-Reranker-0.6B": reranker_checkpoints.qwen,
    }
    for name, make in makers.items():
        entry = catalog.find(name)
        assert entry is not None
        repository = cache / f"models--{entry.repo.replace('/', '--')}"
        commit = "0" * 40
        make(repository / "snapshots" / commit)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(commit, encoding="utf-8")
    return cache


@pytest.fixture
def folder(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with a reader's notes in it, where examples run, and the models in the cache."""
    bread = "---\ntags: food\n---\n# Bread\n\nFeed the starter with rye flour, every day.\n"
    (tmp_path / "notes" / "kitchen").mkdir(parents=True)
    (tmp_path / "notes" / "bread.md").write_text(bread, encoding="utf-8")
    (tmp_path / "notes" / "kitchen" / "again.md").write_text(f"{bread}\nAnd again.\n", encoding="utf-8")
    (tmp_path / "cranfield").mkdir()
    rows = [{"_id": f"{n}", "title": f"wing {n}", "text": f"lift of a wing at {n} degrees ."} for n in range(4)]
    for name, chosen in (("corpus", rows), ("queries", [{"_id": "1", "text": "how much does a wing lift ?"}])):
        lines = "".join(f"{json.dumps(row)}\n" for row in chosen)
        (tmp_path / "cranfield" / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    for name in ("page.png", "notes/photo.jpg"):
        PIL.Image.fromarray(v4_checkpoints.pixels(90, 60)).save(tmp_path / name)
    # curl ends with an error where an answer is one.
    (tmp_path / ".curlrc").write_text("fail\nsilent\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setenv("CURL_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    return tmp_path


def run_block(code: str, name: str, namespace: dict[str, Any]) -> None:
    """Run a block, and compare what it prints with the values in its comments, which start in no lower case."""
    printed: dict[int, str] = {}

    def record(*values: object) -> None:
        printed[sys._getframe(1).f_lineno] = " ".join(map(str, values))

    namespace["print"] = record
    exec(compile(code, name, "exec"), namespace)
    for number, line in enumerate(code.splitlines(), 1):
        shown = re.search(r"print\(.*\)  # ([^a-z].*)$", line)
        assert shown is None or printed[number] == shown[1], line


@pytest.mark.parametrize("page", pages_with("python"), ids=page_name)
def test_python(page: Path, folder: Path) -> None:
    """All blocks of a page in one session, as a reader would type them."""
    if page.stem == "conversion":
        # Its commands make the files that it loads.
        console(page, "mlx-jina convert to-")
    namespace: dict[str, Any] = {}
    for block in blocks(page, "python"):
        run_block(block, page.name, namespace)


def console(page: Path, only: str = "") -> None:
    """Run the lines of a page, all in one folder; what a page shows below a line is what it prints."""
    with ExitStack() as stack:
        url = "http://127.0.0.1:7171"
        for block in blocks(page, "console"):
            for command in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
                line, _, shown = command.partition("\n")
                if not line.startswith(only):
                    continue
                if line.endswith(" &"):
                    arguments = shlex.split(line.removeprefix("mlx-jina serve ").removesuffix(" &"))
                    url = stack.enter_context(Server(*arguments)).url
                    continue
                printed = run_line(line.replace("http://127.0.0.1:7171", url))
                assert same(shown, printed) if shown else printed is not None, line


def run_line(line: str) -> str:
    """What a line prints. `mlx-jina` alone runs in this process, which has imported what it takes."""
    words = shlex.split(line)
    if words[0] == "mlx-jina" and "|" not in words:
        done = CliRunner().invoke(app.commands, words[1:], catch_exceptions=False)
        assert done.exit_code == 0, f"{line}\n{done.output}"
        return done.stdout
    ran = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, f"{line}\n{ran.stderr}"
    assert ran.stdout, line
    return ran.stdout


def same(shown: str, printed: str) -> bool:
    """Whether words are equal, and numbers nearly: they are rounded, and a GPU's differ a little."""
    pairs = list(zip(shown.split(), printed.split(), strict=False))
    number = re.compile(r"-?\d\.\d+")
    return len(shown.split()) == len(printed.split()) and all(
        abs(float(a) - float(b)) < 0.02 if number.fullmatch(a) and number.fullmatch(b) else a == b
        for a, b in pairs
    )


@pytest.mark.parametrize("page", pages_with("console"), ids=page_name)
def test_console(page: Path, folder: Path) -> None:
    if "curl" in read(page) and shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    for block in blocks(page, "console"):
        assert block.startswith("$ ")
    console(page)


def defined(module: str, name: str) -> bool:
    """Whether a module of this package has the class or function; the module is not imported."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return False
    source = Path(spec.origin).read_text(encoding="utf-8")
    return re.search(rf"^(class|def) {name}\b", source, re.MULTILINE) is not None


@pytest.mark.parametrize("page", pages_with("py"), ids=page_name)
def test_python_that_needs_other_libraries(page: Path) -> None:
    """It is Python, and the names of this package are there; tests/integrations and tests/clients run its like."""
    for block in blocks(page, "py"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mlx_jina"):
                assert [each.name for each in node.names if not defined(node.module or "", each.name)] == []
            elif isinstance(node, ast.Import):
                ours = [each.name for each in node.names if each.name.startswith("mlx_jina")]
                assert [name for name in ours if importlib.util.find_spec(name) is None] == []


def test_the_set_up_commands_are_there() -> None:
    """One runs the main job, one the tests; continuous integration runs the latter."""
    encode, tests = blocks(README, "sh")
    for command in (encode, tests):
        assert command.startswith("python3 -m venv .venv && ")
    assert "python -m mlx_jina.encode" in encode
    assert tests.rstrip().endswith("pytest -n 2")


# ---- commands and options


def code(page: Path) -> Iterator[str]:
    """Lines of fenced code, and code within lines."""
    text = read(page)
    fenced = re.compile(r"^ *```\w*\n(.*?)^ *```", flags=re.DOTALL | re.MULTILINE)
    for block in fenced.findall(text):
        yield from block.splitlines()
    for span in re.findall(r"`([^`]+)`", fenced.sub("", text)):
        yield span.replace("\n", " ")


def walk(command: click.Command) -> Iterator[click.Command]:
    """A command and all below it."""
    yield command
    for inner in command.commands.values() if isinstance(command, click.Group) else ():
        yield from walk(inner)


def options(*commands: click.Command) -> set[str]:
    """Every name of every option."""
    return {
        name
        for command in commands
        for each in walk(command)
        for option in each.params
        if isinstance(option, click.Option)
        for name in (*option.opts, *option.secondary_opts)
    }


def command_of(words: list[str]) -> click.Command:
    """The command that the first words name. Raises KeyError for one that does not exist."""
    command: click.Command = app.commands
    for word in words:
        if not isinstance(command, click.Group) or word.startswith("-"):
            break
        command = command.commands[word]
    return command


@by_page
def test_commands_and_their_options_exist(page: Path) -> None:
    for line in code(page):
        if not (called := re.search(r"(?:^|[ /])mlx-jina +([a-z-].*)", line)) or "://" in called[1][:8]:
            continue
        words = shlex.split(re.split(r" (?:\||&|&&)(?: |$)", called[1])[0], comments=True)
        command = command_of(words)
        allowed = options(command) | {"-h", "--help"}
        if command.name == "install":
            allowed |= options(app.commands.commands["serve"])
        given = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert given <= allowed, line


@by_page
def test_options_that_are_named_alone_exist(page: Path) -> None:
    named = {option for span in code(page) for option in re.findall(r"^(--[a-z-]+)", span)}
    assert named <= options(app.commands) | OTHERS_OPTIONS


def test_the_command_line_page_has_every_option_of_every_command() -> None:
    sections = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", read(COMMAND_LINE), re.DOTALL | re.MULTILINE))

    def named(text: str) -> set[str]:
        # A table's cells escape the strokes between values.
        spans = re.findall(r"`([^`]+)`", text)
        return {each for span in spans for each in re.findall(r"(?<!\S)--?[a-z0-9-]+", span)}

    shared = named(sections["Models"])
    for name, command in app.commands.commands.items():
        here = named(sections[f"mlx-jina {name}"])
        assert options(command) <= here | shared, name
        assert {each for each in here if each.startswith("--")} <= options(command), name


def test_modules_that_pages_run_exist() -> None:
    modules = {module for page in PAGES for module in re.findall(r"python -m ([a-z_.]+\w)", read(page))}
    assert {"mlx_jina.encode", "bench.all"} <= modules
    assert [module for module in modules - {"venv"} if importlib.util.find_spec(module) is None] == []


def test_variables_of_the_environment_are_documented_and_exist() -> None:
    pattern = re.compile(r"\bMLX_JINA_[A-Z_]+")
    sources = {name for path in PACKAGE.rglob("*.py") for name in pattern.findall(read(path))}
    assert {name for page in PAGES for name in pattern.findall(read(page))} == sources


# ---- what pages say


def test_the_readme_is_short() -> None:
    assert len(read(README).splitlines()) <= 150


def test_the_readme_has_every_model() -> None:
    rows = [line.split("|")[1:-1] for line in read(README).splitlines() if line.startswith("| `")]
    cells = {name: row for row in rows for name in re.findall(r"`([^`]+)`", row[0])}
    assert list(cells) == catalog.short_names()
    for name, row in cells.items():
        entry = catalog.find(name)
        assert entry is not None
        _, _, _, dimensions, tokens, languages, licence = (cell.strip() for cell in row)
        assert (dimensions, tokens) == (f"{entry.dimension:,}", f"{entry.max_length:,}")
        assert licence.lower() == entry.license
        assert set(re.split(r", | ", entry.languages)) <= set(re.split(r", | ", languages)), name


def test_the_architecture_page_has_every_room() -> None:
    text = read(ROOT / "docs" / "architecture.md")
    rows = re.findall(r"^\| (`[^|]+) \|", text, re.MULTILINE)
    assert [room for row in rows for room in re.findall(r"`(\w+)`", row)] == list(LEVEL)


def test_messages_that_the_troubleshooting_page_quotes_exist() -> None:
    text = read(ROOT / "docs" / "troubleshooting.md")
    quoted = {message for bold in re.findall(r"\*\*(.+?)\*\*", text) for message in re.findall(r"`(.+?)`", bold)}
    messages = "\n".join(
        node.value
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(read(path)))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
    pip = {"requires a different Python: 3.9.6", "mlx"}
    assert pip < quoted
    assert [message for message in quoted - pip if message not in messages] == []


def test_files_of_the_service_are_where_pages_say() -> None:
    text = read(ROOT / "docs" / "troubleshooting.md")
    for path in (launchd.plist_path(), launchd.log_path()):
        assert f"`~/{path.relative_to(Path.home())}`" in text


def anchors(page: Path) -> set[str]:
    """GitHub's anchors of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", read(page), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@by_page
def test_links_lead_somewhere(page: Path) -> None:
    text = read(page)
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"^\[[\w-]+\]: (\S+)$", text, re.MULTILINE)
    for link in links:
        inside = link.removeprefix(BLOB)
        if inside.startswith(("https://", "http://")):
            continue
        path, _, anchor = inside.partition("#")
        target = ROOT / path if inside != link else page.parent / path if path else page
        # A source distribution has no pictures, and not everything beside docs/.
        if not (ROOT / ".github").exists() and not target.exists():
            continue
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@by_page
def test_references_of_links_are_defined(page: Path) -> None:
    text = read(page)
    used = set(re.findall(r"\]\[([\w-]+)\]", text))
    assert used == set(re.findall(r"^\[([\w-]+)\]: ", text, re.MULTILINE))


@by_page
def test_files_that_are_named_exist(page: Path) -> None:
    named = {span for span in code(page) if re.fullmatch(r"[\w.]+(/[\w.]+)+\.py", span) and "NAME" not in span}
    places = (ROOT, PACKAGE, PACKAGE / "server")
    assert [name for name in named if not any((place / name).exists() for place in places)] == []
