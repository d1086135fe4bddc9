"""What a user may ask of a choice of blocks, checked when it is written down."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import attir
from attir.sparsity import select


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"estimator": "magic"},
            "unknown estimator 'magic'; expected quest, pooled, low_rank, int4, sampled, centroids",
        ),
        ({"keep": 0}, "keep must be a fraction in (0, 1], but is 0"),
        ({"keep": -0.5}, "keep must be a fraction in (0, 1], but is -0.5"),
        ({"keep": 1.5}, "keep must be a fraction in (0, 1], but is 1.5"),
        ({"keep": float("nan")}, "keep must be a fraction in (0, 1], but is nan"),
        ({"keep": "some"}, "keep must be a fraction in (0, 1], but is 'some'"),
        ({"block": 40}, "block=40 does not divide into tiles of 16: expected a multiple of 16"),
        ({"block": 0}, "block must be a whole number of at least 16, but is 0"),
        ({"rows": 24}, "rows=24 does not divide into tiles of 16"),
        ({"page": 24}, "page=24 does not divide block=64"),
        ({"page": -1}, "page must be a whole number of at least 0, but is -1"),
        ({"sinks": -1}, "sinks must be a whole number of at least 0, but is -1"),
        ({"local": 1.5}, "local must be a whole number of at least 0, but is 1.5"),
        ({"rank": 8}, "estimator 'quest' has no parameter 'rank'; it has page"),
        ({"estimator": "centroids", "levels": 3}, "levels must be 1 or 2, but is 3"),
        ({"estimator": "low_rank", "rank": -1}, "rank must be a whole number of at least 0, but is -1"),
        ({"estimator": "low_rank", "basis": 3}, "'basis' must be a tensor, but is 3"),
        ({"estimator": "pooled", "gate_q": torch.eye(2)}, "takes gate_q and gate_k or gate, but gate_q is given"),
        (
            {"estimator": "pooled", "gate": torch.eye(2), "gate_q": torch.eye(2)},
            "takes gate_q and gate_k or gate, but gate_q and gate is given",
        ),
        ({"threshold": 2.0}, "threshold must be in [0, 1], but is 2.0"),
        ({"threshold": 0.1, "mass": 0.9}, "threshold and mass are two rules; expected one of them"),
        ({"rule": "cumulative"}, "rule 'cumulative' needs mass=, but none is given"),
        ({"rule": "threshold", "mass": 0.5}, "rule 'threshold' needs threshold=, but mass= is given"),
        ({"rule": "best"}, "unknown rule 'best'; expected top_k, threshold, cumulative"),
        ({"mass": 0.0}, "mass must be a fraction in (0, 1], but is 0.0"),
    ],
)
def test_what_cannot_be_chosen_is_refused_in_words(arguments: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"estimator": "quest", **arguments}
    with pytest.raises(attir.CompileError) as caught:
        select(**given)
    assert message in str(caught.value)


def test_a_choice_tells_itself_in_words() -> None:
    assert str(select("quest", keep=0.1, page=16)) == (
        "10 % of blocks of 64 keys for 64 queries, by quest (page=16); 1 first and 4 local always"
    )
    assert str(select("pooled", threshold=0.01)).startswith("those above 0.01 of the largest of blocks of 64 keys")
    assert str(select("pooled", mass=0.9)).startswith("the fewest with 90 % of the estimated weight of blocks")


def test_equal_choices_are_equal() -> None:
    assert select("quest", keep=0.2) == select("quest", keep=0.2)
    assert hash(select("quest")) == hash(select("quest", keep=0.1, block=64))
    basis = torch.eye(4)
    assert select("low_rank", basis=basis).tensors == (("basis", basis),)


def test_a_rule_follows_from_what_is_given() -> None:
    assert select("pooled").rule == "top_k"
    assert select("pooled", threshold=0.1).rule == "threshold"
    assert select("pooled", mass=0.5).rule == "cumulative"
