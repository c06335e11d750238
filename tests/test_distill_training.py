"""How `pocket` is trained: what the errors say, and that a run which was stopped goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from convert.pocket import student, teacher, training  # noqa: E402

RNG = np.random.default_rng(1)
TEACHER = torch.nn.functional.normalize(torch.from_numpy(RNG.normal(size=(12, 384)).astype(np.float32)), dim=-1)
BASIS = torch.linalg.qr(torch.from_numpy(RNG.normal(size=(384, 256)).astype(np.float32)))[0]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other are slow where other programs compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_batches_hold_every_row_once_by_length() -> None:
    lengths = np.append(RNG.integers(3, 900, 500), training.LONGEST + 1)
    for size in (1, 4):
        made = training.batches(lengths, np.random.default_rng(1), size)
        assert sorted(row for batch in made for row in batch) == [*range(500)]
        for batch in made:
            assert training.padded_length(lengths[batch]).max() * len(batch) <= size * training.BATCH_TOKENS
        padded = sum(len(batch) * lengths[batch].max() for batch in made)
        assert padded < 1.15 * lengths[:500].sum()


def test_few_lengths_are_left_when_texts_are_padded() -> None:
    lengths = np.arange(1, training.LONGEST + 1)
    padded = training.padded_length(lengths)
    assert (padded >= lengths).all()
    assert (padded <= np.maximum(lengths + 3, 1.125 * lengths)).all()
    assert len(np.unique(padded)) < 60


@pytest.mark.parametrize(("dtype", "near"), [("float32", 1e-6), ("bfloat16", 0.05)])
def test_padding_changes_nothing(dtype: str, near: float) -> None:
    texts = [RNG.integers(0, 30, n).astype(np.uint16) for n in (3, 17, 8)]
    model, lengths = student.Student(30), torch.tensor([3, 17, 8])
    flat = model(torch.from_numpy(np.concatenate(texts).astype(np.int64)), lengths, getattr(torch, dtype))
    padded = model(torch.from_numpy(training.table(texts, 20)), lengths, getattr(torch, dtype))
    torch.testing.assert_close(padded, flat, rtol=0, atol=near)


def test_a_bank_has_the_neighbours() -> None:
    ranked = training.bank(np.array([0, 50_000]), 60_000, np.random.default_rng(1))
    assert {*range(training.NEAR + 1), *range(50_000 - training.NEAR, 50_000 + training.NEAR + 1)} <= {*ranked}
    assert len(ranked) == training.BANK + 2 * (2 * training.NEAR + 1)
    assert 0 <= ranked.min() < ranked.max() < 60_000


@pytest.fixture(scope="module")
def alike() -> tuple[Tensor, Tensor, Tensor]:
    """Vectors of a teacher, those of a student that agrees, and where a text meets itself."""
    inside = torch.nn.functional.normalize(TEACHER @ BASIS[:, :64], dim=-1) @ BASIS[:, :64].T
    return inside, inside @ BASIS, torch.eye(12, dtype=torch.bool)


def test_errors_are_zero_for_the_teachers_own_vectors(
    alike: tuple[Tensor, Tensor, Tensor],
) -> None:
    teacher, agreeing, same = alike
    assert training.similarity_error(agreeing, teacher).item() == pytest.approx(0, abs=1e-9)
    assert training.ranking_error(agreeing, teacher, teacher, BASIS, same).item() == pytest.approx(0, abs=1e-5)


def test_errors_grow_with_noise(alike: tuple[Tensor, Tensor, Tensor]) -> None:
    teacher, agreeing, same = alike
    noise = torch.from_numpy(RNG.normal(size=agreeing.shape).astype(np.float32)) / 16
    errors = [
        (
            training.similarity_error(agreeing + size * noise, teacher).item(),
            training.ranking_error(agreeing + size * noise, teacher, teacher, BASIS, same).item(),
        )
        for size in (0.1, 0.5, 2.0)
    ]
    assert errors == sorted(errors)
    assert errors[0][1] > 1e-4


def test_half_the_bits_rank_alike(alike: tuple[Tensor, Tensor, Tensor]) -> None:
    """Similarities in bfloat16 change the error less than its own noise between batches."""
    teacher, agreeing, same = alike
    student = agreeing + torch.from_numpy(RNG.normal(size=agreeing.shape).astype(np.float32)) / 16
    errors = [
        training.ranking_error(student, teacher, teacher, BASIS, same, dtype).item()
        for dtype in (torch.float32, torch.bfloat16)
    ]
    assert errors[1] == pytest.approx(errors[0], rel=0.03)


def test_the_rate_rises_stays_and_falls() -> None:
    rates = [training.rate(step, 10_000) for step in range(10_000)]
    assert rates[0] < 0.01
    assert rates[training.WARMUP : 7_500] == [1.0] * (7_500 - training.WARMUP)
    assert rates[7_500:] == sorted(rates[7_500:], reverse=True)
    assert rates[-1] < 0.001


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], training.Trainer]:
    """Makes a trainer of a small model for so many passes."""
    monkeypatch.setattr(student, "LAYERS", 1)
    monkeypatch.setattr(training, "BATCH_TOKENS", 40)
    monkeypatch.setattr(training, "BANK", 16)
    ids = [RNG.integers(0, 30, n).astype(np.uint16) for n in RNG.integers(3, 9, 24)]
    lessons = training.Lessons(ids, np.resize(TEACHER.numpy(), (24, 384)).astype(np.float16))
    words = RNG.normal(size=(30, 256)).astype(np.float32)

    def make(passes: float) -> training.Trainer:
        torch.manual_seed(1)
        return training.Trainer(training.start(words), lessons, BASIS.numpy(), passes, seed=1)

    return make


def test_a_run_that_was_stopped_goes_on(trainer: Callable[[float], training.Trainer]) -> None:
    whole, first, second, longer = trainer(2), trainer(3.5), trainer(2), trainer(3)
    whole.run(lambda _: None)

    def stop(stopped: training.Trainer) -> None:
        if stopped.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        first.run(stop, every=0)
    state = first.state()
    with pytest.raises(ValueError, match="there are 24: delete state"):
        second.restore({**state, "texts": 7})
    with pytest.raises(ValueError, match="batches of 4 times"):
        second.restore({**state, "size": 4})
    second.restore(state)
    second.run(lambda _: None)
    assert second.step == whole.step == len(whole.plan)
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(second.model.state_dict()[name], value, msg=name)
    with pytest.raises(ValueError, match="too far"):
        longer.restore({**state, "step": len(whole.plan) - 1, "steps": len(whole.plan)})


def test_a_run_at_its_end_can_be_made_longer(
    trainer: Callable[[float], training.Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "WARMUP", 1)
    short, longer, little_longer, shorter = trainer(2), trainer(3), trainer(2.2), trainer(1)
    short.run(lambda _: None)
    for other in (little_longer, shorter):
        with pytest.raises(ValueError, match="too far"):
            other.restore(short.state())
    longer.restore(short.state())
    assert training.rate(longer.step, len(longer.plan)) == 1
    longer.run(lambda _: None)
    assert longer.step == len(longer.plan) > len(short.plan)
    for mine, same in zip(longer.plan, short.plan, strict=False):
        np.testing.assert_array_equal(mine, same)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_graphs_learn_the_same(trainer: Callable[[float], training.Trainer]) -> None:
    played, started = trainer(6), trainer(6)
    started.learn = lambda *inputs: started._learn(*(each.to("cuda") for each in inputs))
    for one in (played, started):
        one.run(lambda _: None)
    for name, value in played.model.state_dict().items():
        torch.testing.assert_close(started.model.state_dict()[name], value, rtol=1e-3, atol=1e-3, msg=name)


def test_windows_are_of_equal_size() -> None:
    for length in (0, 1, 254, 255, 508, 509, 2000):
        windows = teacher.windows([*range(length)])
        assert [token for window in windows for token in window] == [*range(length)]
        sizes = {len(window) for window in windows}
        assert max(sizes) <= teacher.WINDOW
        assert max(sizes) - min(sizes) <= 1
        assert len(windows) == max(1, -(-length // teacher.WINDOW))
