"""Learned models on a made-up machine: what they reach on families they never saw, and how their files are read."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from unit.cost_model import oracle

from attir.cost_model import learned
from attir.cost_model.features import FEATURES
from attir.cost_model.learned import TIME, Learned, arrays_of, fallback_reason, learned_for, weights_file
from attir.cost_model.training.ensemble import Settings, fit
from attir.cost_model.training.samples import Samples, Split
from attir.cost_model.training.scores import TimeScores, time_scores

SETTINGS = Settings(steps=150, rate=1e-2, decay=0.01, members=5, width=16, noise=oracle.NOISE)
Trained = tuple[Learned, Samples, Samples]


@pytest.fixture(scope="module")
def trained() -> Trained:
    samples = oracle.samples(160)
    split = Split.of(samples.families)
    training, held_out = samples.at(split.training), samples.at(split.held_out)
    return Learned(fit(training, SETTINGS), "made up"), training, held_out


def scores(samples: Samples, ratio: np.ndarray[Any, np.dtype[np.float64]]) -> TimeScores:
    return time_scores(samples.seconds, samples.analytical * np.exp(ratio), samples.problems)


def corrected(model: Learned, samples: Samples) -> tuple[Any, Any]:
    return model.correct([tuple(row) for row in samples.rows])


def test_held_out_families_are_predicted(trained: Trained) -> None:
    model, training, held_out = trained
    assert not set(training.families) & set(held_out.families)
    found, alone = scores(held_out, corrected(model, held_out)[0]), scores(held_out, np.zeros(len(held_out)))
    assert found.error < 0.10 < alone.error
    assert found.spearman > 0.9 and found.spearman > alone.spearman
    assert found.regret < 1.02 and found.regret <= alone.regret


def test_spreads_cover_the_errors(trained: Trained) -> None:
    model, _, held_out = trained
    ratio, spread = corrected(model, held_out)
    deviations = np.abs(ratio - held_out.answers[:, 0]) / spread
    assert (spread > 0).all()
    assert np.mean(deviations < 2.0) > 0.8


def test_what_lies_far_outside_is_not_extrapolated(trained: Trained) -> None:
    model, training, _ = trained
    ratio, _ = model.correct([tuple(1e6 * np.ones(len(FEATURES)))])
    low, high = training.answers.min(), training.answers.max()
    margin = 0.11 * (high - low)
    assert low - margin <= ratio[0] <= high + margin


def test_the_same_samples_give_the_same_weights(trained: Trained) -> None:
    model, training, _ = trained
    again = fit(training, SETTINGS)
    for one, other in zip(model.ensemble.weights, again.weights, strict=True):
        assert np.array_equal(one, other)


def test_a_hundred_candidates_take_about_a_millisecond(trained: Trained) -> None:
    model, training, _ = trained
    rows = [tuple(row) for row in training.rows[:100]]
    times: list[float] = []
    for _ in range(10):
        began = time.perf_counter()
        model.correct(rows)
        times.append(time.perf_counter() - began)
    assert min(times) < 5e-3


# --- files


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(learned, "WEIGHTS", tmp_path)
    return tmp_path


def write(folder: Path, model: Learned, **changed: Any) -> None:
    arrays: dict[str, Any] = {**arrays_of(model.ensemble, TIME, ["avx512"], model.data), **changed}
    np.savez_compressed(weights_file(TIME, "avx512", folder), allow_pickle=True, **arrays)


def test_weights_that_were_written_are_read(trained: Trained, folder: Path) -> None:
    model, _, held_out = trained
    write(folder, model)
    read = learned_for("avx512")
    assert read is not None and fallback_reason("avx512") == "" and read.data == "made up"
    for one, other in zip(corrected(read, held_out), corrected(model, held_out), strict=True):
        assert np.allclose(one, other, atol=1e-4)
    assert weights_file(TIME, "avx512", folder).stat().st_size < 100_000


def test_a_device_without_weights_says_so(folder: Path) -> None:
    assert learned_for("sm_90") is None
    assert fallback_reason("sm_90") == "analytical only: no times measured on sm_90 were learned from"


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"format": np.asarray(99)}, "weights have format 99, but 1 is read"),
        ({"targets": np.asarray(["sm_90"])}, "weights were trained for sm_90, not for avx512"),
        ({"features": np.asarray([*FEATURES, "colour"])}, "weights were trained for other features (colour)"),
        ({"features": np.asarray(FEATURES[::-1])}, "weights were trained for other features (their order)"),
        ({"weight1": np.zeros((5, 3, 3), np.float16)}, "do not follow each other"),
        ({"bias2": np.full((5, 1), np.nan, np.float16)}, "weights are not finite"),
        ({"mean": np.asarray([{"no": "code"}], dtype=object)}, "cannot be read: Object arrays cannot be loaded"),
    ],
    ids=["format", "targets", "features", "order", "shapes", "nan", "pickle"],
)
def test_weights_that_do_not_fit_are_not_used(
    trained: Trained, folder: Path, changed: dict[str, Any], reason: str
) -> None:
    write(folder, trained[0], **changed)
    assert learned_for("avx512") is None
    assert reason in fallback_reason("avx512")


@pytest.mark.parametrize("left", [0, 10, 1000])
def test_files_that_are_cut_off_are_not_used(trained: Trained, folder: Path, left: int) -> None:
    write(folder, trained[0])
    path = weights_file(TIME, "avx512", folder)
    path.write_bytes(path.read_bytes()[:left])
    assert learned_for("avx512") is None
    assert "time.avx512.npz cannot be read" in fallback_reason("avx512")
