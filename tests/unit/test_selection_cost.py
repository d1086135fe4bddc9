"""What the cost model says of choices, beside counts by hand and beside what must hold for any size."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attir.compiler.selection import ESTIMATORS
from attir.cost_model.selection import ESTIMATES, FIXED, Estimate, share_of_dense

LONG = Estimate(32768, 32768, 128, 128, 64, 64, {}, heads=8)


def test_every_estimator_has_a_cost() -> None:
    assert set(ESTIMATES) == set(ESTIMATORS)


def test_products_are_counted() -> None:
    assert LONG.dense == 32768 * 32768 * 256
    assert ESTIMATES["quest"](LONG) == 2 * 32768 * 512 * 128
    assert ESTIMATES["pooled"](LONG) == 512 * 512 * 128 + 2 * 32768 * 128
    assert ESTIMATES["int4"](replace(LONG, own={"queries": 4})) == 512 * 4 * 32768 * 128
    assert ESTIMATES["sampled"](replace(LONG, own={"queries": 64})) == 64 * 32768 * 128


@pytest.mark.parametrize("estimator", list(ESTIMATORS))
def test_a_share_grows_with_what_is_kept(estimator: str) -> None:
    sizes = replace(LONG, own=ESTIMATORS[estimator])
    shares = [share_of_dense(estimator, kept, sizes) for kept in (0.0, 0.1, 0.5, 1.0)]
    assert shares == sorted(shares) and shares[0] < 0.12 and shares[-1] >= 1.0


@pytest.mark.parametrize("estimator", list(ESTIMATORS))
def test_a_choice_does_not_pay_where_there_is_little_to_do(estimator: str) -> None:
    short = Estimate(128, 128, 64, 64, 64, 64, ESTIMATORS[estimator], heads=4)
    assert short.dense * short.heads < FIXED
    assert share_of_dense(estimator, 0.1, short) > 1.0
