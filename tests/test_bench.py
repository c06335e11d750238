"""What the bench computes from its measurements."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bench import harness, models, report, scale, texts


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


def test_plan() -> None:
    assert scale.hours(1_000_000_000, 100, 10_000, 10) == pytest.approx(277.8, abs=0.1)
    assert scale.terabytes(1_000_000_000, 1024, "binary") == pytest.approx(0.128)
