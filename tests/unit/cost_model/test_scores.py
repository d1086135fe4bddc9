"""Scores of predictions."""

from __future__ import annotations

import numpy as np
import pytest

from attir.cost_model.training.scores import explained, kernel_scores, spearman, time_scores


def test_ranks() -> None:
    x = np.asarray([1.0, 2.0, 3.0, 4.0])
    assert spearman(x, x**3) == pytest.approx(1.0)
    assert spearman(x, -x) == pytest.approx(-1.0)
    assert spearman(x, np.ones(4)) == 0.0
    assert spearman(x, np.asarray([1.0, 1.0, 2.0, 2.0])) == pytest.approx(0.8944, abs=1e-4)


def test_explained_variance() -> None:
    x = np.asarray([1.0, 2.0, 3.0])
    assert explained(x, x) == 1.0
    assert explained(x, np.full(3, 2.0)) == 0.0


def test_regret_is_of_the_choice_within_each_problem() -> None:
    seconds = np.asarray([1.0, 2.0, 4.0, 1.0, 2.0, 4.0])
    predicted = np.asarray([1.0, 2.0, 4.0, 2.0, 1.0, 4.0])
    found = time_scores(seconds, predicted, np.asarray([0, 0, 0, 1, 1, 1]))
    assert found.problems == 2 and found.candidates == 6
    assert found.regret == pytest.approx(2**0.5) and found.worst_regret == pytest.approx(2.0)
    assert found.regret3 == 1.0
    assert found.error == 0.0


def test_kernels_that_were_not_made_are_left_out() -> None:
    truth = np.asarray([[100.0, 0.0, 5.0], [200.0, 1.0, np.nan], [150.0, 1.0, 6.0]])
    predicted = np.asarray([[100.0, -3.0, 5.0], [200.0, 3.0, 9.0], [150.0, -1.0, 6.0]])
    found = kernel_scores(truth, predicted)
    assert (found.registers, found.loop) == (1.0, 1.0)
    assert found.spills == pytest.approx(2 / 3) and found.missed == pytest.approx(0.5)
