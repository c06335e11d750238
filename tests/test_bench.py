"""What the bench computes from its measurements."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import all as bench_all
from bench import harness, memory, models, overview, peers, published, report, scale, server, texts, throughput
from bench.harness import THEIRS_OVER_OURS, Options, Section
from bench.peers.batches import sorted_batches

MAC = {
    "processor": "Apple M4 Max",
    "accelerator": "Apple M4 Max",
    "cores": 16,
    "system": "Darwin 25.0.0 arm64",
    "MLX backend": "metal",
    "environment": {},
    "versions": {"mlx": "0.32.4"},
}
CPU = {**MAC, "processor": "AMD EPYC", "accelerator": "", "system": "Linux 6.18 x86_64", "MLX backend": "cpu"}


def rows(model: str, tokens: int | str, ours: float, peer: float) -> list[dict[str, Any]]:
    """Throughput of us and of one peer."""
    common = {"model": model, "weights": "random", "tokens a text": tokens}
    ratio = [ours / peer] * 3
    return [
        {**common, "peer": peers.OURS, "tokens/s": [ours] * 3, THEIRS_OVER_OURS: None},
        {**common, "peer": "llama.cpp F16", "tokens/s": [peer] * 3, THEIRS_OVER_OURS: ratio},
    ]


def measured() -> Section:
    """A throughput section, as if it had been measured."""
    found = [*rows("v5-small", 16, 2000.0, 4000.0), *rows("v5-small", "mixed", 5000.0, 4000.0)]
    plot = {"panel": "model", "line": "peer", "x": "tokens a text", "y": "tokens/s", "scale": "log"}
    return Section("Throughput", "As if.", found, {"mlx-lm": "not installed"}, plot)


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`bench.all --only throughput`, which measures nothing; where its results go."""
    monkeypatch.setattr(throughput, "run", lambda options: measured())
    options = ["--models", "v5-small", "--results", str(tmp_path), "--lengths", "128", "16"]
    monkeypatch.setattr(sys, "argv", ["bench.all", "--only", "throughput", *options])
    return tmp_path


def test_ratios_are_taken_round_by_round() -> None:
    assert harness.ratio([2.0, 9.0, 8.0], [1.0, 3.0, 2.0]) == [3.0, 2.0, 4.0]


def test_what_is_not_our_vector_is_noticed() -> None:
    a = np.eye(3, dtype=np.float32)
    assert harness.lowest_cosine(a, 5 * a) == pytest.approx(1)
    assert harness.lowest_cosine(a, np.roll(a, 1, axis=0)) == 0
    assert math.isnan(harness.lowest_cosine(a, a[:2]))
    assert math.isnan(harness.lowest_cosine(a, np.full_like(a, np.nan)))


def test_table() -> None:
    rows: list[report.Row] = [{"peer": "a", "s": [1234.5, 0.5, 2e-5]}, {"peer": "b", "more": None, "n": 8192}]
    assert list(report.table(rows)) == [
        "| peer | s | more | n |",
        "|---|---|---|---|",
        "| a | 1,234 (0.500-2.0e-05) | - | - |",
        "| b | - | - | 8,192 |",
    ]


def test_texts_have_exactly_the_tokens_asked_for() -> None:
    tokenizer = models.find("pocket").tokenizer()
    lengths = [3, 16, 128, 1024, *texts.mixed_lengths(20)]
    assert [len(ids) for ids in tokenizer.encode(texts.of_lengths(tokenizer, lengths))] == lengths


def test_a_sample_of_mixed_lengths_pads_like_all_of_them() -> None:
    def padding(lengths: list[int]) -> float:
        return sum(len(ids) * max(lengths[i] for i in ids) for ids in sorted_batches(lengths)) / sum(lengths)

    whole = texts.sample_of_mixed(texts.CORPUS, 4)
    assert sorted(whole) == sorted(texts.mixed_lengths(texts.CORPUS))
    assert len(texts.sample_of_mixed(8, 4)) == 4 * texts.BATCH
    assert padding(texts.sample_of_mixed(8, 4)) < padding(whole) < 1.1 < padding(texts.mixed_lengths(57))


def test_plan() -> None:
    assert scale.hours(1_000_000_000, 100, 10_000, 10) == pytest.approx(277.8, abs=0.1)
    assert scale.terabytes(1_000_000_000, 1024, "binary") == pytest.approx(0.128)


def test_peers_that_are_faster_are_bold() -> None:
    slower, faster = rows("a", 16, 300.0, 100.0), rows("a", 128, 100.0, 200.0)
    lines = [*report.table([*slower, *faster])][2:]
    assert [line.count("**") // 2 for line in lines] == [0, 0, 0, 1]
    assert lines[3].endswith("| 200 (200-200) | **0.500 (0.500-0.500)** |")
    lower = [
        {"model": "a", "tokens": 8, "peer": peer, "above, MB": mb} for peer, mb in (("mlx-jina", 2), ("b", 1))
    ]
    assert [*report.table(lower)][3] == "| a | 8 | b | **1** |"
    lower[1]["peer"] = "mlx-jina encode"
    assert [*report.table(lower)][3] == "| a | 8 | mlx-jina encode | 1 |"


def test_published_figures_stand_beside_those_of_a_mac_only() -> None:
    found = [
        *rows("v5-small", 16, 2000.0, 9e4),
        *rows("v5-small", 128, 3000.0, 9e4),
        *rows("pocket", 16, 1.0, 1.0),
    ]
    assert published.beside(MAC, "throughput", found) == [
        {
            "model": "v5-small",
            "figure": "tokens/s at best",
            "mlx-jina, Apple M4 Max": [3000.0] * 3,
            "Jina's MLX code, M3 Ultra (published)": 21_600,
        }
    ]
    query = {"model": "v5-nano", "peer": peers.OURS, "one query, ms": [4.0, 3.5, 5.0]}
    assert "| v5-nano | one short query, ms | 4.00 (3.50-5.00) | 3 |" in report.figures(MAC, "latency", [query])
    assert published.NOTE in report.figures(MAC, "latency", [query])
    assert published.NOTE not in report.figures(CPU, "latency", [query])
    assert not published.beside(MAC, "memory", found)
    assert not published.beside(MAC, "throughput", rows("v5-small, 2 layers", 16, 2000.0, 1.0))


def test_page_says_what_an_outside_reader_needs(tmp_path: Path) -> None:
    section = measured()
    context = {"commit": "abc", "date": "2026-07-01", "how": "5 rounds", "peers": peers.settings(section.rows)}
    report.save(tmp_path / "mac.json", MAC, "throughput", section, context)
    page = (tmp_path / "mac.md").read_text(encoding="utf-8")
    for words in (
        "- versions: mlx 0.32.4\n",
        "\n- mlx-jina: `load(folder)`",
        "\n- llama.cpp: its server",
        "4,000 (4,000-4,000) | **0.500",
        "- mlx-lm: not installed\n",
        "| v5-small | tokens/s at best | 5,000 (5,000-5,000) | 21,600 |",
        "Commit abc, 2026-07-01, 5 rounds.",
    ):
        assert words in page
    assert "environment" not in page
    assert "onnxruntime" not in page


def test_plots_of_what_was_measured(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    context = {"commit": "abc", "date": "2026-07-01", "how": "5 rounds", "peers": {}}
    report.save(tmp_path / "mac.json", MAC, "throughput", measured(), context)
    assert "](mac-throughput.svg)" in (tmp_path / "mac.md").read_text(encoding="utf-8")
    assert (tmp_path / "mac-throughput.svg").exists()


def test_without_matplotlib_only_plots_are_missing(
    command: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    bench_all.main()
    lines = capsys.readouterr().err.splitlines()
    assert "matplotlib is not installed" in lines[0]
    assert "pip install -e . --group bench" in lines[0]
    assert lines[1] == "throughput ..."
    assert sorted(path.suffix for path in command.iterdir()) == [".json", ".md"]
    page = next(command.glob("*.md")).read_text(encoding="utf-8")
    assert "| v5-small | random | 16 |" in page
    assert ".svg" not in page
    assert "only lengths 16 128" in page
    assert "- llama.cpp: its server" in page


def test_what_was_measured_stays_when_the_rest_fails(command: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(options: Options) -> Section:
        if options.models != ["v5-small"]:
            raise harness.PeerError("stopped")
        return measured()

    monkeypatch.setattr(throughput, "run", run)
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--models", "v5-small", "v2-small"])
    with pytest.raises(harness.PeerError):
        bench_all.main()
    assert "| v5-small | random | 16 |" in next(command.glob("*.md")).read_text(encoding="utf-8")


@pytest.mark.parametrize(("package", "question"), [("psutil", "throughput"), ("httpx2", "server")])
def test_what_nothing_can_be_measured_without_is_said_first(package: str, question: str) -> None:
    code = (
        f"import runpy, sys; sys.modules['{package}'] = None; sys.argv = ['bench.all', '--only', 'tokenizing', "
        f"'{question}']; runpy.run_module('bench.all', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.search(rf"^bench.all: {package} is not installed; run: pip install -e . --group bench$", done.stderr)


def test_only_the_lengths_that_were_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Peer:
        name = peers.OURS
        peer = peers.of(models.find("pocket"), ["nothing else"])[0]

        def __init__(self, *_: object) -> None: ...
        def give(self, given: list[str], longest: int) -> None:
            asked.append(longest)

        def seconds(self) -> float:
            return 1.0

        def vectors(self) -> Any:
            return np.eye(2, dtype=np.float32)

        def ask(self, **_: object) -> dict[str, Any]:
            return {"peak": 2e6, "framework_above": None}

        def close(self) -> None: ...

    monkeypatch.setattr(harness, "Process", Peer)
    monkeypatch.setattr(memory, "Process", Peer)
    options = Options(quick=True, rounds=1, seconds=1, models=["pocket"], peers=["nothing else"], lengths=[9, 17])
    assert [row["tokens a text"] for row in throughput.run(options).rows] == [9, 17, "mixed"]
    assert {9, 17} < set(asked)
    assert [row["tokens"] for row in memory.run(options).rows] == [9, 17]


def test_lengths_out_of_range(
    command: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [*sys.argv, "9000"])
    with pytest.raises(SystemExit):
        bench_all.main()
    assert "--lengths takes 3 to 8192 tokens, not 9000" in capsys.readouterr().err
    assert not list(command.iterdir())


def test_plan_is_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    context = {"commit": "abc", "date": "2026-07-01", "how": "5 rounds", "peers": {}}
    path = tmp_path / "mac.json"
    results = {"machine": MAC, "sections": {"throughput": {"rows": measured().rows, "context": context}}}
    path.write_text(json.dumps(results), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["bench.scale", str(path)])
    scale.main()
    assert capsys.readouterr().out.splitlines()[1:5] == [
        "",
        "| model | tokens/s | passages | hours on 1 | hours on 10 | hours on 100 | dimensions | float32, TB "
        "| float16, TB | int8, TB | binary, TB |",
        "|" + "---|" * 11,
        "| v5-small | 5,000 | 1,000,000,000 | 6,667 | 667 | 66.7 | 1,024 | 4.10 | 2.05 | 1.02 | 0.128 |",
    ]
    path.write_text(json.dumps({"machine": MAC, "sections": {}}), encoding="utf-8")
    with pytest.raises(SystemExit):
        scale.main()
    assert "has no throughput of a whole model on mixed lengths" in capsys.readouterr().err


def test_server_beside_the_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "QUERIES", 3)
    monkeypatch.setattr(server, "DOCUMENT_TOKENS", 256)
    for name in ("TEXTS", "MIXED"):
        monkeypatch.setattr(server, name, getattr(server, name)[:40])
    options = Options(quick=True, rounds=1, seconds=1, models=[], peers=[])
    *many, lone, beside = server.run(options).rows
    assert len(many) == 2
    for row in many:
        assert row["reached"][0] == pytest.approx(100 * row["server"][0] / row["encoder"][0])
    assert lone["reached"][0] == pytest.approx(lone["server"][0] - lone["encoder"][0])
    limit = 3 * beside["server, idle"][0] + beside["encoder"][0]
    assert beside["reached"][0] == pytest.approx(100 * beside["server"][0] / limit)


def test_the_plot_of_the_readme_shows_what_was_recorded() -> None:
    root = Path(__file__).parents[1]
    recorded = root / "bench" / "results" / "amd-epyc-2-cores-cpu.json"
    if not recorded.exists():
        pytest.skip("a source distribution has no results")
    panels = overview.panels(json.loads(recorded.read_text(encoding="utf-8"))["sections"], "v2-small")
    plot = (root / "docs" / "overview.svg").read_text(encoding="utf-8")
    for title, figures in panels.items():
        assert f">{title}<" in plot
        assert next(iter(figures)) == peers.OURS
        assert [name for name, value in figures.items() if f">{value:,.0f}<" not in plot or name not in plot] == []
