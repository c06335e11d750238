"""Files of vectors: what is in them, and that no kind of end loses, doubles or moves a row."""

from __future__ import annotations

import json
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import mlx_jina
from mlx_jina.choices import Precision
from mlx_jina.cli import app
from mlx_jina.engine import pipeline
from mlx_jina.errors import InputError
from mlx_jina.files.inputs import Record
from mlx_jina.files.outputs import FORMATS, LABELS, JsonLines
from mlx_jina.files.resumable import Partial, check, partial_of
from tests.support.checkpoints import WORDS, tiny_jina_bert
from tests.support.command import SMALL, run

SUFFIXES = tuple(FORMATS)
LINES = 2000


@pytest.fixture(autouse=True, scope="module")
def small_windows() -> Iterator[None]:
    """A few thousand lines make many blocks, as in the processes of `SMALL`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "WINDOW_TEXTS", 64)
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that loads in milliseconds."""
    return tiny_jina_bert(tmp_path_factory.mktemp("model"), heads=2, layers=1)


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Many short texts, no two alike."""
    rng = random.Random(0)
    path = tmp_path_factory.mktemp("input") / "lines.txt"
    texts = (f"{i} {' '.join(rng.choices(WORDS, k=rng.randint(1, 12)))}\n" for i in range(LINES))
    path.write_text("".join(texts), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def whole(model: Path, lines: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The finished file of each format, never interrupted."""
    finished = {}
    for suffix in SUFFIXES:
        path = tmp_path_factory.mktemp("whole") / f"v{suffix}"
        done = run("encode", "-m", model, "-i", lines, "-o", path)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert names(path.parent) == [path.name, f"{path.name}.state.json"]
        finished[suffix] = path.read_bytes()
    return finished


def names(folder: Path) -> list[str]:
    """What a folder holds."""
    return sorted(path.name for path in folder.iterdir())


def read(path: Path) -> np.ndarray:
    """The vectors of a finished or a partial file."""
    name = path.name.removesuffix(".partial")
    if name.endswith(".npy"):
        return np.load(path)
    if name.endswith(".jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert [row["index"] for row in rows] == list(range(len(rows)))
        return np.array([row["embedding"] for row in rows], dtype=np.float32)
    table = pa.ipc.open_stream(path.read_bytes()).read_all() if name != path.name else pq.read_table(path)
    assert table["index"].to_pylist() == list(range(len(table)))
    return np.array(table["embedding"].to_pylist(), dtype=np.float32)


def invoke(*arguments: str | Path) -> None:
    """`mlx-jina encode` in this process."""
    app.encode.main([str(argument) for argument in arguments], standalone_mode=False)


def recorded(partial: Path) -> int:
    """How many rows the state file vouches for."""
    try:
        return int(json.loads(Path(f"{partial}.json").read_text())["rows"])
    except FileNotFoundError:
        return 0


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_formats_hold_the_library_s_vectors(
    suffix: str, whole: dict[str, bytes], model: Path, lines: Path, tmp_path: Path
) -> None:
    path = tmp_path / f"v{suffix}"
    path.write_bytes(whole[suffix])
    expected = mlx_jina.load(model).encode(lines.read_text().splitlines())
    np.testing.assert_allclose(read(path), expected, atol=1e-6)


def test_npy_is_what_numpy_writes(whole: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "v.npy").write_bytes(whole[".npy"])
    np.save(tmp_path / "again.npy", np.load(tmp_path / "v.npy"))
    assert (tmp_path / "again.npy").read_bytes() == whole[".npy"]


@pytest.mark.parametrize("precision", ["float16", "int8", "uint8", "binary", "ubinary"])
def test_precisions(precision: Precision, model: Path, tmp_path: Path) -> None:
    texts = ["light travels fast", "how do i bake bread"]
    expected = mlx_jina.load(model).encode(texts, precision=precision)
    for suffix in SUFFIXES:
        path = tmp_path / f"v{suffix}"
        invoke("-m", model, "--precision", precision, "-o", path, *texts)
        np.testing.assert_array_equal(read(path).astype(expected.dtype), expected)
    assert np.load(tmp_path / "v.npy").dtype == expected.dtype
    assert pq.read_schema(tmp_path / "v.parquet").field("embedding").type == pa.list_(
        pa.from_numpy_dtype(expected.dtype), expected.shape[1]
    )


def test_json_numbers_bring_back_every_bit() -> None:
    rng = np.random.default_rng(0)
    for dtype in (np.float32, np.float16):
        rows = (rng.normal(size=(200, 16)) * 10.0 ** rng.integers(-4, 4, (200, 16))).astype(dtype)
        text = b"".join(JsonLines(16, rows.dtype).block(0, [{}] * 200, rows)).decode()
        back = np.array([json.loads(line)["embedding"] for line in text.splitlines()], dtype=dtype)
        np.testing.assert_array_equal(back, rows)


def test_labels(model: Path, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/é.md").write_text("light")
    (tmp_path / "a.jsonl").write_text('{"text": "x", "id": 7}\n{"text": "y"}\n')
    inputs = ("-i", tmp_path / "docs", "-i", tmp_path / "a.jsonl")
    for suffix in (".jsonl", ".parquet"):
        invoke("-m", model, *inputs, "-o", tmp_path / f"v{suffix}")
    rows = [json.loads(line) for line in (tmp_path / "v.jsonl").read_text().splitlines()]
    file = str(tmp_path / "docs/é.md")
    assert [row.get("file") for row in rows] == [file, None, None]
    assert [row.get("id") for row in rows] == [None, 7, None]
    table = pq.read_table(tmp_path / "v.parquet")
    assert table["file"].to_pylist() == [file, None, None]
    assert table["id"].to_pylist() == [None, "7", None]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_texts_make_an_empty_file(suffix: str, model: Path, tmp_path: Path) -> None:
    path, empty = tmp_path / f"v{suffix}", tmp_path / "empty.txt"
    empty.touch()
    invoke("-m", model, "-i", empty, "-o", path)
    assert len(read(path)) == 0
    assert names(tmp_path) == [empty.name, path.name, f"{path.name}.state.json"]


# ---- every kind of end


def start(arguments: list[str | Path], **options: object) -> subprocess.Popen[bytes]:
    """The command with small windows, running."""
    return subprocess.Popen([*SMALL, "encode", *map(str, arguments)], stderr=subprocess.PIPE, **options)  # type: ignore[call-overload]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_killed_anywhere_and_resumed_is_the_same_file(
    suffix: str, whole: dict[str, bytes], model: Path, lines: Path, tmp_path: Path
) -> None:
    path, partial = tmp_path / f"v{suffix}", tmp_path / f"v{suffix}.partial"
    command: list[str | Path] = ["-m", model, "-i", lines, "-o", path, "--resume"]
    rng = random.Random(suffix)
    kills = 0
    for rows in (1, 500, 1200):
        with start(command) as process:
            while recorded(partial) < rows and process.poll() is None:
                time.sleep(0.0005)
            time.sleep(rng.random() / 100)
            process.kill()
        kills += process.returncode == -signal.SIGKILL
        if suffix == ".npy" and partial.exists() and recorded(partial):
            assert len(read(partial)) >= recorded(partial)
    assert kills
    done = run("encode", *command)
    assert (done.returncode, done.stderr) in ((0, ""), (0, f"{path} is finished: nothing to resume\n"))
    assert path.read_bytes() == whole[suffix]
    assert names(tmp_path) == [path.name, f"{path.name}.state.json"]


@pytest.mark.slow
def test_two_hundred_kills(whole: dict[str, bytes], model: Path, lines: Path, tmp_path: Path) -> None:
    """At any moment, from before the first row to after the last; each file is made over and over again."""
    rng = random.Random(0)
    kills = 0

    def finish(suffix: str) -> None:
        path = tmp_path / f"v{suffix}"
        done = run("encode", "-m", model, "-i", lines, "-o", path, "--resume")
        assert done.returncode == 0, done.stderr
        assert path.read_bytes() == whole[suffix]
        assert set(names(tmp_path)) >= {path.name, f"{path.name}.state.json"}
        for left in tmp_path.glob(f"v{suffix}*"):
            left.unlink()

    while kills < 200:
        suffix = rng.choice(SUFFIXES)
        path, partial = tmp_path / f"v{suffix}", tmp_path / f"v{suffix}.partial"
        with start(["-m", model, "-i", lines, "-o", path, "--resume"]) as process:
            # A third of them while it starts, the others once there are rows.
            ready, wait, before = rng.random() < 0.67, rng.random(), recorded(partial)
            while ready and process.poll() is None and recorded(partial) <= before:
                time.sleep(0.0005)
            time.sleep(wait / (20 if ready else 1))
            process.kill()
            words = process.communicate()[1]
        assert process.returncode in (0, -signal.SIGKILL), words
        kills += process.returncode == -signal.SIGKILL
        if path.exists():
            finish(suffix)
    for suffix in SUFFIXES:
        finish(suffix)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_without_a_state_was_just_begun(suffix: str, tmp_path: Path) -> None:
    """A kill between first bytes and first state loses nothing, also where a finished file grows."""
    path = tmp_path / f"v{suffix}"
    begun = partial_of(path)
    begun.write_bytes(FORMATS[suffix](2, np.dtype(np.float32), LABELS).header(0))
    record = Record("a text")
    with Partial(path, 2, np.dtype(np.float32), {}, resume=True) as partial:
        assert list(partial.skip_done(iter([record]))) == [record]
        partial.append([record], [{}], np.ones((1, 2), np.float32))
        partial.finish()
    finished = path.read_bytes()
    begun.write_bytes(finished)
    with Partial(path, 2, np.dtype(np.float32), {}, resume=True) as partial:
        assert list(partial.skip_done(iter([record]))) == []
        assert partial.finished
    assert path.read_bytes() == finished
    assert not begun.exists()


@pytest.mark.parametrize(
    ("suffix", "number", "code"), [(".npy", signal.SIGINT, 130), (".jsonl", signal.SIGTERM, 143)]
)
def test_interrupted_is_usable_and_says_how_to_go_on(
    suffix: str,
    number: signal.Signals,
    code: int,
    whole: dict[str, bytes],
    model: Path,
    lines: Path,
    tmp_path: Path,
) -> None:
    path, partial = tmp_path / f"v{suffix}", tmp_path / f"v{suffix}.partial"
    text = lines.read_bytes()
    with start(["-m", model, "-o", path], stdin=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stderr
        process.stdin.write(b"".join(text.splitlines(keepends=True)[:640]))
        process.stdin.flush()
        while recorded(partial) < 512:
            time.sleep(0.001)
        process.send_signal(number)
        said = process.stderr.read().decode()
    assert process.returncode == code
    rows = recorded(partial)
    assert said.splitlines()[0] == f"the first {rows} vectors are in {partial}; --resume continues"
    assert len(read(partial)) == rows
    assert run("encode", "-m", model, "-o", path, stdin=text).returncode == 1
    assert run("encode", "-m", model, "-o", path, "--resume", stdin=text).returncode == 0
    assert path.read_bytes() == whole[suffix]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_broken_input_keeps_what_came_before(
    suffix: str, whole: dict[str, bytes], model: Path, lines: Path, tmp_path: Path
) -> None:
    path, partial = tmp_path / f"v{suffix}", tmp_path / f"v{suffix}.partial"
    good = lines.read_bytes().splitlines(keepends=True)
    source = tmp_path / "in.txt"
    source.write_bytes(b"".join([*good[:100], b"\xff\n", *good[101:]]))
    done = run("encode", "-m", model, "-i", source, "-o", path)
    assert done.returncode == 1
    assert f"error: {source}, line 101: byte 0xff is not valid UTF-8" in done.stderr
    assert len(read(partial)) == 100
    source.write_bytes(lines.read_bytes())
    assert run("encode", "-m", model, "-i", source, "-o", path, "--resume").returncode == 0
    assert path.read_bytes() == whole[suffix]


@pytest.mark.parametrize("suffix", [".npy", ".jsonl"])
def test_full_disk_keeps_what_fitted(
    suffix: str, whole: dict[str, bytes], model: Path, lines: Path, tmp_path: Path
) -> None:
    path, partial = tmp_path / f"v{suffix}", tmp_path / f"v{suffix}.partial"
    half = len(whole[suffix]) // 2
    with start(
        ["-m", model, "-i", lines, "-o", path],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (half, half)),
    ) as process:
        assert process.stderr
        said = process.stderr.read().decode()
    assert process.returncode == 1
    assert said.splitlines()[-1] == f"error: {partial}: File too large"
    rows = recorded(partial)
    assert 0 < rows < LINES
    assert len(read(partial)) == rows
    assert run("encode", "-m", model, "-i", lines, "-o", path, "--resume").returncode == 0
    assert path.read_bytes() == whole[suffix]


@pytest.fixture
def unfinished(model: Path, lines: Path, tmp_path: Path) -> tuple[Path, Callable[..., str]]:
    """An output that an error stopped after 128 resumable rows, and its command with other options."""
    path, broken = tmp_path / "v.npy", tmp_path / "in.txt"
    good = lines.read_bytes().splitlines(keepends=True)
    broken.write_bytes(b"".join([*good[:300], b"\xff\n"]))
    assert run("encode", "-m", model, "-i", broken, "-o", path).returncode == 1
    before = (tmp_path / "v.npy.partial").read_bytes()

    def refused(*options: str | Path, model: Path = model, source: Path = lines) -> str:
        done = run("encode", "-m", model, "-i", source, "-o", path, *options)
        assert done.returncode == 1
        assert (tmp_path / "v.npy.partial").read_bytes() == before
        return done.stderr

    return path, refused


def test_resume_refuses_what_would_not_match(
    unfinished: tuple[Path, Callable[..., str]], lines: Path, tmp_path: Path
) -> None:
    path, refused = unfinished
    assert "is left from an earlier run: --resume continues it, --force starts over" in refused()
    assert "give one of them" in refused("--resume", "--force")
    other = tiny_jina_bert(tmp_path / "other", heads=2, layers=1, seed=1)
    assert "was made with another model than this run's" in refused("--resume", model=other)
    assert "was made with no --prompt, and this run has --prompt a" in refused("--resume", "--prompt", "a")
    assert "was made with --precision float32" in refused("--resume", "--precision", "float16")
    changed = tmp_path / "changed.txt"
    changed.write_text("other\n" + lines.read_text())
    assert "texts are not those" in refused("--resume", source=changed)
    changed.write_text("".join(lines.read_text().splitlines(keepends=True)[:10]))
    assert "the input has 10 texts" in refused("--resume", source=changed)
    state = Path(f"{path}.partial.json")
    kept = state.read_text()
    state.write_text(kept[:50])
    assert "is damaged" in refused("--resume")
    state.unlink()
    assert "is missing" in refused("--resume")


def test_force_starts_over(
    unfinished: tuple[Path, Callable[..., str]], whole: dict[str, bytes], model: Path, lines: Path
) -> None:
    path, _ = unfinished
    command = ("encode", "-m", model, "-i", lines, "-o", path)
    assert run(*command, "--force").returncode == 0
    assert path.read_bytes() == whole[".npy"]
    refused = run(*command)
    assert (refused.returncode, refused.stderr) == (
        1,
        f"error: {path} exists already: --force replaces it, --resume adds what is new in the input\n",
    )
    resumed = run(*command, "--resume")
    assert (resumed.returncode, resumed.stderr) == (0, f"{path} is finished: nothing to resume\n")


@pytest.mark.parametrize(
    "suffix", [".npy", *(pytest.param(x, marks=pytest.mark.slow) for x in (".jsonl", ".parquet"))]
)
def test_a_finished_file_is_resumed_only_as_what_it_is(
    suffix: str, whole: dict[str, bytes], model: Path, lines: Path, tmp_path: Path
) -> None:
    path, state = tmp_path / f"v{suffix}", tmp_path / f"v{suffix}.state.json"
    texts = lines.read_text().splitlines(keepends=True)
    source = tmp_path / "in.txt"
    source.write_text("".join(texts[:1500]))

    def again(*options: str | Path, model: Path = model) -> subprocess.CompletedProcess[str]:
        return run("encode", "-m", model, "-i", source, "-o", path, "--resume", *options)

    assert again().returncode == 0
    before = path.read_bytes()

    def refused(words: str, *options: str | Path, model: Path = model) -> None:
        done = again(*options, model=model)
        assert done.returncode == 1
        assert words in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert path.read_bytes() == before

    other = tiny_jina_bert(tmp_path / "other", heads=2, layers=1, seed=1)
    refused(f"{path} was made with another model", model=other)
    refused("was made with --precision float32, and this run has --precision float16", "--precision", "float16")
    refused("was made with no --prompt, and this run has --prompt a", "--prompt", "a")
    refused("was made with --truncate-dim 32", "--truncate-dim", "16", "--allow-untrained-dim")
    source.write_text("other\n" + "".join(texts[1:1500]))
    refused(f"the first 1500 texts are not those that {path} was made from")
    source.write_text("".join(texts[:10]))
    refused(f"the input has 10 texts, but {path} already has the vectors of 1500")
    # The same input, and then more of it.
    source.write_text("".join(texts[:1500]))
    done = again()
    assert (done.returncode, done.stderr) == (0, f"{path} is finished: nothing to resume\n")
    assert path.read_bytes() == before
    source.write_text("".join(texts))
    done = again()
    assert (done.returncode, done.stderr) == (0, "")
    np.testing.assert_allclose(read(path), read_bytes(whole[suffix], suffix, tmp_path), atol=1e-6)
    assert state.exists()
    assert not list(tmp_path.glob("*.partial*"))
    # Whatever the file is now, it is not what the state says.
    before = path.read_bytes()[:-1]
    path.write_bytes(before)
    refused(f"{path} was changed after it was finished")
    state.write_text("{}")
    refused(f"{state} is damaged")
    state.unlink()
    refused(f"{path} is there, but not v{suffix}.state.json")


def test_a_finished_file_outlives_what_is_added(model: Path, tmp_path: Path) -> None:
    """Until the longer file is whole, the shorter one is there."""
    path, source = tmp_path / "v.npy", tmp_path / "in.txt"
    source.write_text("a fox\n")
    command = ("encode", "-m", model, "-i", source, "-o", path, "--resume")
    assert run(*command).returncode == 0
    source.write_bytes(b"a fox\nthe dog\n\xff\n")
    assert run(*command).returncode == 1
    assert len(np.load(path)) == 1
    source.write_text("a fox\nthe dog\nparis\n")
    assert run(*command).returncode == 0
    np.testing.assert_allclose(
        np.load(path), mlx_jina.load(model).encode(["a fox", "the dog", "paris"]), atol=1e-6
    )


def read_bytes(content: bytes, suffix: str, folder: Path) -> np.ndarray:
    """The vectors of a file's content."""
    (folder / f"whole{suffix}").write_bytes(content)
    return read(folder / f"whole{suffix}")


def test_input_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.touch()
    with pytest.raises(InputError, match="is also an input"):
        check(path, [str(path)], resume=False, force=True)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "v.npy"
    row = np.ones((1, 4), dtype=np.float32)
    with Partial(path, 4, row.dtype, {}, resume=False) as first:
        first.skip_done(iter([]))
        first.append([Record("a")], [{}], row)
        with pytest.raises(InputError, match="another process is writing"):
            Partial(path, 4, row.dtype, {}, resume=True)
    with Partial(path, 4, row.dtype, {}, resume=True) as second:
        assert second.rows == 1


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_stopped_between_the_last_row_and_the_new_name(suffix: str, tmp_path: Path) -> None:
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    records = [Record("a"), Record("b", ("id", 1)), Record("c")]
    path = tmp_path / f"v{suffix}"
    with Partial(path, 4, rows.dtype, {}, resume=False) as partial:
        partial.skip_done(iter([]))
        partial.append(records, [{}, {"id": 1}, {}], rows)
    with Partial(path, 4, rows.dtype, {}, resume=True) as partial:
        partial.skip_done(iter(records))
        partial.finish()
    np.testing.assert_array_equal(read(path), rows)
    assert names(tmp_path) == [path.name, f"{path.name}.state.json"]


# ---- memory


def test_no_more_texts_are_held_than_two_windows(model: Path) -> None:
    from mlx_jina.cli.encode import Named, Source, _Job, _Stream

    taken = 0

    def records() -> Iterator[Record]:
        nonlocal taken
        for i in range(1000):
            taken += 1
            yield Record(f"text {i}")

    given = 0
    job = _Job(Source((), (), None), mlx_jina.load(model), {}, None)
    for done, _, rows in _Stream(job, records(), Named()).blocks(0):
        assert taken - given <= 2 * 64
        assert len(done) == len(rows)
        given += len(done)
    assert given == 1000


@pytest.mark.slow
def test_memory_of_a_million_lines(model: Path, tmp_path: Path) -> None:
    code = (
        "import resource, sys\nfrom mlx_jina import cli\ntry:\n    cli.main()\n"
        "finally:\n    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)\n"
    )
    peaks = {}
    for count in (100_000, 1_000_000):
        path = tmp_path / "lines.txt"
        with path.open("w") as file:
            file.writelines(f"{i} {' '.join(WORDS[i % 7 : i % 23])}\n" for i in range(count))
        started = time.monotonic()
        output = tmp_path / f"{count}.npy"
        done = run(
            "encode", "-m", model, "-i", path, "-o", output, program=(sys.executable, "-c", code), timeout=3600
        )
        assert done.returncode == 0, done.stderr
        scale = 1 << 20 if sys.platform == "darwin" else 1 << 10
        peaks[count] = int(done.stderr) / scale
        print(f"{count} lines: peak {peaks[count]:.0f} MiB, {time.monotonic() - started:.0f} s")
        assert np.load(output, mmap_mode="r").shape == (count, 32)
    # Buffer caches still grow towards their limits after 100,000 lines; texts and vectors would be 250 MiB.
    assert peaks[1_000_000] < peaks[100_000] + 100
