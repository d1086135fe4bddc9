"""Reports say how many tiles a kernel computes, or what decides that."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import attir


def masked(q: Tensor, k: Tensor, keep: Tensor, number: float = float("-inf")) -> Tensor:
    return torch.softmax((q @ k.mT * 0.25).masked_fill(~keep, number), -1) @ k


def positions(q: Tensor) -> tuple[Tensor, Tensor]:
    return torch.arange(q.shape[2])[:, None], torch.arange(q.shape[2])[None, :]


def causal(q: Tensor, ids: Tensor) -> Tensor:
    m, n = positions(q)
    return masked(q, q, n <= m)


def sink_and_window(q: Tensor, ids: Tensor) -> Tensor:
    m, n = positions(q)
    return masked(q, q, (n <= m) & ((m - n < 70) | (n < 4)))


def documents(q: Tensor, ids: Tensor) -> Tensor:
    return masked(q, q, ids[:, None, :, None] == ids[:, None, None, :])


def padding(q: Tensor, ids: Tensor) -> Tensor:
    return masked(q, q, (ids > 0)[:, None, None, :], torch.finfo(q.dtype).min)


REPORTED: list[tuple[Callable[[Tensor, Tensor], Tensor], tuple[str, ...]]] = [
    (causal, ("visits    keys with n <= m\n", "tiles     36 of 64 live, 28 full (64x64)")),
    (sink_and_window, ("ranges of keys in closed form", "tiles     26 of 64 live, 0 full (64x64)")),
    (documents, ("tiles that may keep a key", "tiles     decided per tile on the device from ids")),
]


@pytest.mark.parametrize(("function", "lines"), REPORTED, ids=[f.__name__ for f, _ in REPORTED])
def test_reports_count_tiles(function: Callable[[Tensor, Tensor], Tensor], lines: tuple[str, ...]) -> None:
    compiled = attir.compile(function, backend="interpret", strict=True)
    with torch.no_grad():
        compiled(torch.randn(1, 1, 512, 16), torch.zeros(1, 512, dtype=torch.long))
    told = str(attir.explain(compiled))
    assert all(line in told for line in lines), told


def test_a_finite_number_is_named_where_rows_may_be_empty() -> None:
    compiled = attir.compile(padding, backend="interpret", strict=True)
    with torch.no_grad():
        compiled(torch.randn(1, 1, 70, 16), torch.ones(1, 70, dtype=torch.long))
    told = str(attir.explain(compiled))
    assert "the mask adds -3.40282e+38 where -inf is meant" in told
    assert "such a row averages all values as the model does" in told
