"""The model that reads kernels, on answers that are known from the text."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch

from attir.cost_model.tokens import CLOSE, OPEN
from attir.cost_model.training.samples import Samples
from attir.cost_model.training.scores import spearman
from attir.cost_model.training.text_model import TextModel, TextSettings, Words, fit_text

LOOP = ("tile.load", "arith.mulf", "math.exp2", "tile.reduce.max", "arith.addf", "tile.dot.ieee")
COST = {
    "tile.load": 1.0,
    "arith.mulf": 1.0,
    "math.exp2": 4.0,
    "tile.reduce.max": 2.0,
    "arith.addf": 1.0,
    "tile.dot.ieee": 16.0,
}
SETTINGS = TextSettings(("number",), width=24, epochs=12, within=0.0, best=0.0)


def kernel(draw: random.Random) -> tuple[Words, float]:
    """A loop of random operations on one tile size, and what it costs for each of its threads."""
    rows, keys, warps = draw.choice((16, 32, 64, 128)), draw.choice((16, 32, 64, 128)), draw.choice((4, 8))
    body = [draw.choice(LOOP) for _ in range(draw.randint(4, 16))]
    type_ = f"{rows}x{keys}xf32"
    words = (
        f"num_warps={warps}",
        OPEN,
        "scf.for:index:index",
        OPEN,
        *(f"{op}:{type_}:{type_}" for op in body),
        CLOSE,
        CLOSE,
    )
    return words, sum(COST[op] for op in body) * rows * keys / warps


def made_up(count: int, seed: int) -> tuple[list[Words], Samples]:
    draw = random.Random(seed)
    texts, costs = zip(*(kernel(draw) for _ in range(count)), strict=True)
    answers, zeros = np.asarray([[math.log(c)] for c in costs]), np.zeros(count)
    return list(texts), Samples(np.zeros((count, 1)), answers, np.arange(count), ("",) * count, zeros, zeros)


@pytest.fixture(scope="module")
def model() -> TextModel:
    return fit_text(*made_up(600, 0), SETTINGS)


def test_costs_of_kernels_it_never_saw_are_ranked(model: TextModel) -> None:
    texts, samples = made_up(200, 1)
    found = model.answers(texts)[:, 0]
    assert spearman(samples.answers[:, 0], found) > 0.95
    assert np.median(np.abs(np.exp(found - samples.answers[:, 0]) - 1.0)) < 0.3


def test_unknown_operations_are_read_too(model: TextModel) -> None:
    found = model.answers([("num_warps=4", "colour=red", OPEN, "tile.sing:64x64xf32", "arith.what:?x7xf9:i5", CLOSE)])
    assert np.isfinite(found).all()


def test_what_stands_beside_a_text_changes_nothing(model: TextModel) -> None:
    texts, _ = made_up(20, 2)
    alone = np.concatenate([model.answers([text]) for text in texts])
    assert np.allclose(model.answers(texts), alone, atol=1e-4)


def test_the_same_texts_give_the_same_weights() -> None:
    texts, samples = made_up(60, 3)
    settings = TextSettings(("number",), width=8, epochs=2)
    one, other = (fit_text(texts, samples, settings).reader.state_dict() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)
