"""`mlx-jina` as people run it: output, one-line errors, exit codes, what `--help` costs."""

from __future__ import annotations

import ast
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

import mlx_jina
from mlx_jina import device
from mlx_jina.cli import app, similarity
from mlx_jina.cli.spelling import spelled
from tests.support import colbert_checkpoints
from tests.support.checkpoints import tiny_jina_bert
from tests.support.command import PROGRAM, SMALL, run


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that loads in milliseconds."""
    return tiny_jina_bert(tmp_path_factory.mktemp("model"))


def embeddings(output: str) -> np.ndarray:
    """The vectors of JSON lines, whose indices count up."""
    rows = [json.loads(line) for line in output.splitlines()]
    assert [row["index"] for row in rows] == list(range(len(rows)))
    return np.array([row["embedding"] for row in rows])


@pytest.mark.parametrize("arguments", [["--help"], ["encode", "--help"], ["info", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from mlx_jina import cli\n"
        "try:\n    cli.main()\n"
        "finally:\n    print(sorted({m.partition('.')[0] for m in sys.modules}), file=sys.stderr)\n"
    )
    done = run(*arguments, program=(sys.executable, "-c", code))
    assert done.returncode == 0
    heavy = {"mlx", "huggingface_hub", "gguf", "mlx_lm", "transformers", "torch", "numpy", "tokenizers", "tqdm"}
    assert not heavy & set(ast.literal_eval(done.stderr))


def test_arguments_stdin_and_module_agree_with_the_library(model: Path) -> None:
    texts = ["light travels fast", "how do i bake bread", ""]
    expected = mlx_jina.load(model).encode(texts)
    by_argument = run("encode", "-m", model, *texts)
    assert (by_argument.returncode, by_argument.stderr) == (0, "")
    np.testing.assert_array_equal(embeddings(by_argument.stdout).astype(np.float32), expected)
    module = (sys.executable, "-W", "error", "-m", "mlx_jina.encode")
    for arguments, stdin in (([], "\n".join(texts) + "\n"), (["-"], "\r\n".join(texts) + "\r\n")):
        done = run("-m", model, *arguments, stdin=stdin, program=module)
        assert (done.stdout, done.stderr, done.returncode) == (by_argument.stdout, "", 0)


def test_options_reach_the_encoder(model: Path) -> None:
    texts = ["light", "bread"]
    options = ["--precision", "int8", "--truncate-dim", "32", "--allow-untrained-dim", "--prompt", "the "]
    done = run("encode", "-m", model, *options, "--max-length", "4", "--batch-tokens", "8", *texts)
    expected = mlx_jina.load(model).encode(
        texts, precision="int8", truncate_dim=32, allow_untrained_dim=True, prompt="the ", max_length=4
    )
    np.testing.assert_array_equal(embeddings(done.stdout), expected)
    assert done.stdout.startswith('{"index": 0, "embedding": [')
    assert "." not in done.stdout
    raw = run("encode", "-m", model, "--no-normalize", "--dtype", "float16", *texts)
    expected = mlx_jina.load(model, dtype="float16").encode(texts, normalize_embeddings=False)
    np.testing.assert_array_equal(embeddings(raw.stdout).astype(np.float32), expected)


def test_warnings_are_one_plain_line(model: Path) -> None:
    done = run(
        "encode", "-m", model, "--max-length", "4", "how do i bake bread", program=PROGRAM[:1] + PROGRAM[3:]
    )
    assert done.returncode == 0
    assert done.stderr == "warning: 1 text was longer than 4 tokens and cut; --no-truncate makes it an error\n"


def test_default_model_and_file_hint_are_said_once(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.touch()
    done = run("encode", path, "text")
    assert done.returncode == 0
    first, second = done.stderr.splitlines()
    assert "--input" in first
    assert "'pocket'" in second
    assert "--model v2-small-en" in second
    assert len(done.stdout.splitlines()) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["encode", "--colour"], "No such option"),
        (["search", "-draft", "soup"], "if it is a text, put -- before it"),
        (["encode", "--precision", "int4", "x"], "'int4' is not one of"),
        (["encode", "-i", "missing.txt"], "missing.txt does not exist"),
        (["encode", "x", "-i", "missing.txt"], "not both"),
        (["encode", "--field", "a", "x"], "--field a needs"),
        (["encode", "--resume", "x"], "--resume needs a file to write"),
        (["encode", "-o", "x.bin", "x"], "must end in .npy, .jsonl, .parquet"),
        (["encode", "-o", "missing/x.npy", "x"], "the folder missing does not exist"),
        (["encode", "-m", "no-such-model", "x"], "'no-such-model' is neither a folder"),
        # What a shell makes of a variable that is not set is not the default model.
        (["encode", "-m", "", "x"], "the name of the model is empty"),
        (["encode", "-i", ""], "the name of an input (--input) is empty"),
        (["encode", "-m", "owner/absent", "--cache-dir", "empty", "x"], "downloads are off"),
        (["encode", "-m", "pocket", "--truncate-dim", "100", "x"], "(64, 128, 256)"),
        (
            ["encode", "-m", "pocket", "--no-truncate", "--max-length", "4", "x", "a b c d e"],
            "text 1 has 7 tokens",
        ),
        (["encode", "-m", "pocket", "--truncate-dim", "65", "x"], "--truncate-dim 65 is not a size"),
        (["encode", "-m", "pocket", "--truncate-dim", "65", "x"], "; --allow-untrained-dim cuts anyway"),
        (["encode", "-m", "pocket", "--task", "a b", "x"], "--task 'a b' is unknown to this model"),
        (["encode", "-m", "pocket", "--prompt-name", "query", "x"], "--prompt-name query is unknown"),
        (["encode", "-m", "pocket", "--as-model", "foo", "x"], "--as-model foo is no published model"),
        (["encode", "-m", "pocket", "--max-length", "1", "x"], "--max-length 1 must lie between 3 and"),
        (["encode", "-m", "pocket", "--precision", "int8", "--no-normalize", "x"], "needs --normalize"),
        (["encode", "-m", "pocket", "--no-truncate", "--max-length", "3", "a b"], "--truncate cuts it"),
        (["similarity", "-m", "pocket", "x"], "at least two texts"),
        (["info", "no-such-model"], "'no-such-model' is neither a folder"),
        (["train"], "No such command 'train'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_1(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(*arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert not done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("group", [app.commands, *app.commands.commands.values()], ids=lambda each: each.name)
def test_help_cuts_no_line(group: click.Command) -> None:
    """Commands of a group in a terminal of 80 columns."""
    if isinstance(group, click.Group):
        shown = CliRunner(env={"COLUMNS": "80"}).invoke(group, ["--help"]).stdout.partition("Commands:")[2]
        assert shown
        assert "..." not in shown


def test_what_looks_like_an_option_within_a_name_stays() -> None:
    words = "/data/task=a/x?mode=ro: truncate=False, task='a b', ranges=None, late=False and mode="
    expected = "/data/task=a/x?mode=ro: --no-truncate, --task 'a b', ranges=None, --no-late and --mode"
    assert spelled(words, app.commands) == expected


def test_without_a_command_it_helps() -> None:
    done = run()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == run("--help").stdout
    group = run("convert")
    assert (group.returncode, group.stderr) == (0, "")
    assert group.stdout == run("convert", "--help").stdout


def test_another_kind_of_model_is_named_by_its_command() -> None:
    for name, command in (("bge-reranker-v2-m3", "`mlx-jina rerank`"), ("colbert-v2", "`mlx-jina serve`")):
        done = run("encode", "-m", name, "x")
        assert done.returncode == 1
        assert command in done.stderr
    done = run("rerank", "pocket", "a", "b")
    assert done.returncode == 1
    assert done.stderr.endswith("`mlx-jina encode -m` takes it\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "70000"], "70000 is not in the range"),
        (["--max-memory", "nan"], "nan is not a positive number"),
        (["--unload-after", "inf"], "inf is not a positive number"),
        (["--api-key-file", "key"], "key is not UTF-8 text"),
    ],
)
def test_what_a_server_cannot_be_told(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("key").write_bytes(b"\xff")
    done = run("serve", *arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("closed", ["<&-", ">&-"])
def test_streams_that_the_shell_closed(model: Path, tmp_path: Path, closed: str) -> None:
    output = tmp_path / "x.npy"
    shell = ("sh", "-c", f'exec "$@" {closed}', "sh", *PROGRAM)
    done = run("encode", "-m", model, "-o", output, "a", program=shell)
    assert (done.returncode, done.stderr) == (0, "")
    assert np.load(output).shape == (1, 64)


def test_a_terminal_without_the_characters(model: Path) -> None:
    program = ("env", "PYTHONIOENCODING=latin-1", *PROGRAM)
    done = run("similarity", "-m", model, "寿司", "x", program=program)
    assert done.stderr == ""
    assert "1  \\u5bff\\u53f8" in done.stdout


def test_half_a_character_in_an_id(model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": "\\ud800", "text": "x"}\n')
    done = run("encode", "-m", model, "-i", tmp_path / "a.jsonl", "-o", tmp_path / "a.parquet")
    assert done.returncode == 1
    assert 'line 1: "id" holds half a character' in done.stderr
    assert done.stderr.count("\n") == 1


def test_texts_before_a_broken_line_are_encoded(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine", "id": "a"}\n' * 16 + "{broken\n")
    done = run("encode", "-m", model, "-i", path)
    assert done.returncode == 1
    assert done.stderr == (
        f"error: {path}, line 17: not valid JSON (Expecting property name enclosed in double quotes at column 2)\n"
    )
    assert embeddings(done.stdout).shape == (16, 64)
    assert json.loads(done.stdout.splitlines()[15])["id"] == "a"


def test_what_the_encoder_refuses_is_named_by_file_and_line(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('\n{"text": "fine"}\n\n{"text": "lone \\ud800"}\n')
    done = run("encode", "-m", model, "-i", path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {path}, line 4: text 1 holds a lone surrogate")


def test_what_is_skipped_and_cut_is_named_at_the_end(model: Path, tmp_path: Path) -> None:
    notes, vectors = tmp_path / "notes", tmp_path / "v.npy"
    notes.mkdir()
    for number in range(14):
        (notes / f"{number:02}.md").write_bytes(b"caf\xe9" if number < 12 else b"the quick brown fox " * number)
    options: list[str | Path] = ["-m", model, "-i", notes, "--max-length", "9", "-o", vectors]
    done = run("encode", *options, program=PROGRAM[:1] + PROGRAM[3:])
    lines = done.stderr.splitlines()
    assert done.returncode == 0
    assert lines[0] == "warning: 2 texts were longer than 9 tokens and cut; --no-truncate makes it an error"
    assert lines[1] == "skipped (12):"
    assert lines[2].startswith(f"  {notes}/00.md: line 1: byte 0xe9 is not valid UTF-8; convert the file first")
    assert lines[12:] == ["  and 2 more", "cut (2):", f"  {notes}/12.md", f"  {notes}/13.md"]
    assert np.load(vectors).shape[0] == 2
    stopped = run("encode", "-m", model, "-i", notes, "--on-error", "stop")
    assert (stopped.returncode, stopped.stdout) == (1, "")
    assert stopped.stderr.startswith(f"error: {notes}/00.md, line 1: byte 0xe9")


def test_a_dash_is_standard_output(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("encode", "-m", model, "a fox", "-o", "-").stdout == run("encode", "-m", model, "a fox").stdout
    assert list(tmp_path.iterdir()) == []


def test_reader_that_stops_early(model: Path) -> None:
    with subprocess.Popen(
        [*SMALL, "encode", "-m", str(model)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        process.stdin.write(b"light\n" * 256)
        process.stdin.flush()
        assert process.stdout.readline().startswith(b'{"index": 0')
        process.stdout.close()
        process.stdin.write(b"bread\n" * 1024)
        with suppress(BrokenPipeError):
            process.stdin.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_full_disk(model: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*PROGRAM, "encode", "-m", str(model), "x"], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert (done.returncode, done.stderr) == (1, b"error: standard output: No space left on device\n")


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_interrupt(model: Path, number: signal.Signals, code: int, word: str) -> None:
    with subprocess.Popen(
        [*SMALL, "encode", "-m", str(model)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(b"light\n" * 256)
        process.stdin.flush()
        first = process.stdout.readline()
        process.send_signal(number)
        out = first + process.stdout.read()
        _, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert err.decode() == f"{word}\n"
    assert all(json.loads(line) for line in out.splitlines())


def test_similarity(model: Path) -> None:
    done = run("similarity", "-m", model, "light travels fast", "light\ntravels", "寿司" * 30)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["1", "2", "3"]
    assert lines[1].startswith("1  light travels fast ")
    assert lines[2].startswith("2  light travels ")
    assert lines[1].split()[-3] == lines[2].split()[-2] == "1.00"
    assert lines[1].split()[-2] == lines[2].split()[-3]


def test_similarity_table_is_aligned() -> None:
    assert similarity.table(["ab", "寿司"], [[1.0, -0.001], [-0.001, 1.0]]).splitlines() == [
        "             1      2",
        "1  ab     1.00   0.00",
        "2  寿司   0.00   1.00",
    ]


def test_similarity_shortens_to_what_fits() -> None:
    rows = similarity.table(["\N{CJK UNIFIED IDEOGRAPH-4E00}" * 50_000, "x" * 40, "x" * 41], [[1.0]] * 3)
    names = [line.split()[1] for line in rows.splitlines()[1:]]
    assert names == ["\N{CJK UNIFIED IDEOGRAPH-4E00}" * 19 + "…", "x" * 40, "x" * 39 + "…"]


def test_info(model: Path, tmp_path: Path) -> None:
    done = run("info", "--cache-dir", tmp_path / "absent")
    assert (done.returncode, done.stderr) == (0, "")
    rows = dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if line)
    assert rows["mlx-jina"] == mlx_jina.__version__
    assert rows["backend"] == device.backend()
    assert rows["pocket"].endswith("inside this package")
    fingerprint = mlx_jina.load(model).fingerprint()
    assert f"fingerprint           {fingerprint}\n" in run("info", model).stdout
    assert "no; using it" in run("info", "v2-base-zh", "--cache-dir", tmp_path / "absent").stdout


def test_info_of_late_interaction(tmp_path: Path) -> None:
    folder = colbert_checkpoints.v2(tmp_path / "late")
    facts = dict(re.split(r"  +", line, maxsplit=1) for line in run("info", folder).stdout.splitlines())
    assert facts["type"] == "multi-vector"
    assert facts["trained to be cut to"] == "64, 96, 128"
    assert facts["query"] == "32 vectors"
    assert facts["document"].startswith("8192 tokens")
    assert facts["fingerprint"] == mlx_jina.load_multi_vector(folder).fingerprint()
    absent = run("info", "colbert-v2", "--cache-dir", tmp_path / "absent").stdout
    assert "type        multi-vector" in absent
    assert "no; using it" in absent


def test_other_commands_refuse_late_interaction(tmp_path: Path) -> None:
    folder = colbert_checkpoints.v1(tmp_path / "late")
    calls: list[list[str | Path]] = [
        ["encode", "--model", folder, "text"],
        ["similarity", "--model", folder, "a", "b"],
    ]
    for arguments in calls:
        done = run(*arguments)
        assert done.returncode == 1
        assert done.stderr.endswith("`mlx-jina serve` and mlx_jina.load_multi_vector take it\n")
        assert "Traceback" not in done.stderr


def test_info_for_programs(model: Path, tmp_path: Path) -> None:
    machine = json.loads(run("info", "--json", "--cache-dir", tmp_path / "absent").stdout)
    assert machine["versions"]["mlx-jina"] == mlx_jina.__version__
    assert machine["backend"]["backend"] == device.backend()
    assert [(each["model"], each["dimensions"]) for each in machine["models"]] == [("pocket", 256)]
    facts, encoder = json.loads(run("info", model, "--json").stdout), mlx_jina.load(model)
    assert (facts["here"], facts["path"], facts["dimension"]) == (True, str(model), encoder.dimension)
    assert (facts["tasks"], facts["prompts"]) == ([], {})
    assert facts["fingerprints"] == {"": encoder.fingerprint()}
    absent = json.loads(run("info", "v2-base-zh", "--json", "--cache-dir", tmp_path / "absent").stdout)
    assert (absent["here"], absent["max_length"]) == (False, 8192)


def test_info_lists_the_cache(model: Path, tmp_path: Path) -> None:
    for repo, whole in (("jinaai--whole", True), ("jinaai--part", False), ("other--model", True)):
        snapshot = tmp_path / f"models--{repo}" / "snapshots" / ("0" * 40)
        snapshot.mkdir(parents=True)
        for path in model.iterdir():
            if whole or path.name == "config.json":
                (snapshot / path.name).write_bytes(path.read_bytes())
    lines = run("info", "--cache-dir", tmp_path).stdout.splitlines()
    listed = {line.split()[0]: line for line in lines if line.startswith(("jinaai/", "other/"))}
    assert sorted(listed) == ["jinaai/part", "jinaai/whole"]
    assert listed["jinaai/part"].endswith("(incomplete)")
