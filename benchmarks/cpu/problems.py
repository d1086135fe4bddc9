"""The attentions that are timed: as people write them, in FlexAttention's words, and in float64 for comparison."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch.nn import functional

Tensors = tuple[torch.Tensor, ...]
Plain = Callable[..., torch.Tensor]
Position = torch.Tensor
Visible = Callable[[Position, Position, Tensors], torch.Tensor]
Changed = Callable[[torch.Tensor, Position, Position, Position, Tensors], torch.Tensor]

DTYPES: Mapping[str, torch.dtype] = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
WINDOW, CAP, DOCUMENTS = 256, 30.0, 4

# How far from float64, as a part of the largest and of the root mean square of the result: half types
# round it to their own precision, f32 adds up the roundings of its sums.
TOLERANCE: Mapping[str, float] = {"f32": 1e-5, "bf16": 2.0**-7, "f16": 2.0**-9}
CHECKED_ROWS = 128


class WrongResultError(SystemExit):
    """A kernel does not compute what it is timed for; ends the benchmark."""


@dataclass(frozen=True)
class Form:
    """What is special about an attention.

    `plain(q, k, v, *captures)` is what attir compiles. `visible(m, n, captures)` and `changed(scores,
    h, m, n, captures)` say the same by position, for FlexAttention and for the comparison; m and n
    are positions of queries and keys. `captures(heads, length)` makes the tensors it reads.
    """

    plain: Plain
    visible: Visible | None = None
    changed: Changed | None = None
    captures: Callable[[int, int], Tensors] = lambda heads, length: ()


def _full(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return functional.scaled_dot_product_attention(q, k, v)


def _causal(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True)


def _scores(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    return (q @ k.transpose(-1, -2)).float() / q.shape[-1] ** 0.5


def _distance(q: torch.Tensor) -> torch.Tensor:
    positions = torch.arange(q.shape[-2], device=q.device)
    return positions[:, None] - positions[None, :]


def _weighted(scores: torch.Tensor, hidden: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return torch.softmax(scores.masked_fill(hidden, float("-inf")), dim=-1).to(v.dtype) @ v


def _alibi(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, slopes: torch.Tensor) -> torch.Tensor:
    distance = _distance(q)
    return _weighted(_scores(q, k) - slopes[:, None, None] * distance, distance < 0, v)


def _softcap(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return _weighted(CAP * torch.tanh(_scores(q, k) / CAP), _distance(q) < 0, v)


def _window(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    distance = _distance(q)
    return _weighted(_scores(q, k), (distance < 0) | (distance >= WINDOW), v)


def _document(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
    other = documents[:, None] != documents[None, :]
    return _weighted(_scores(q, k), other | (_distance(q) < 0), v)


def _is_past(m: Position, n: Position, _: Tensors) -> torch.Tensor:
    return n <= m


def _is_near(m: Position, n: Position, _: Tensors) -> torch.Tensor:
    return (n <= m) & (m - n < WINDOW)


def _is_same_document(m: Position, n: Position, captures: Tensors) -> torch.Tensor:
    return (captures[0][m] == captures[0][n]) & (n <= m)


def _sloped(s: torch.Tensor, h: Position, m: Position, n: Position, captures: Tensors) -> torch.Tensor:
    return s - captures[0][h] * (m - n)


def _capped(s: torch.Tensor, h: Position, m: Position, n: Position, _: Tensors) -> torch.Tensor:
    return CAP * torch.tanh(s / CAP)


def _slopes(heads: int, length: int) -> Tensors:
    return (torch.tensor([2.0 ** -(h % 8 + 1) for h in range(heads)]),)


def _documents(heads: int, length: int) -> Tensors:
    """Documents of unequal lengths: a fifth, a tenth, three tenths, the rest."""
    ends = torch.tensor([length // 5, 3 * length // 10, 6 * length // 10])
    return (torch.searchsorted(ends, torch.arange(length), right=True),)


FORMS: Mapping[str, Form] = {
    "full": Form(_full),
    "causal": Form(_causal, _is_past),
    "alibi": Form(_alibi, _is_past, _sloped, _slopes),
    "softcap": Form(_softcap, _is_past, _capped),
    "window": Form(_window, _is_near),
    "document": Form(_document, _is_same_document, captures=_documents),
}


@dataclass(frozen=True)
class Problem:
    """One attention over `length` queries and as many keys, on contiguous tensors that are drawn once."""

    form: str
    dtype: str
    width: int
    length: int
    heads: int

    @cached_property
    def captures(self) -> Tensors:
        return FORMS[self.form].captures(self.heads, self.length)

    @cached_property
    def inputs(self) -> Tensors:
        """q, k, v and the captures."""
        generator = torch.Generator().manual_seed(0)
        shape = (1, self.heads, self.length, self.width)
        q, k, v = (torch.randn(shape, generator=generator).to(DTYPES[self.dtype]) for _ in range(3))
        return q, k, v, *self.captures

    @property
    def labels(self) -> dict[str, str]:
        return {"dtype": self.dtype, "D": str(self.width), "N": str(self.length), "mask": self.form}

    @cached_property
    def flops(self) -> float:
        """Of both products, on the pairs of queries and keys that the mask lets through."""
        visible, positions = FORMS[self.form].visible, torch.arange(self.length)
        pairs = self.length**2
        if visible is not None:
            pairs = int(visible(positions[:, None], positions[None, :], self.captures).sum().item())
        return 4.0 * self.heads * self.width * pairs

    def check(self, result: torch.Tensor, who: str) -> float:
        """The largest error on some rows of all heads; WrongResultError where it is not rounding."""
        rows = torch.linspace(0, self.length - 1, min(CHECKED_ROWS, self.length)).round().long()
        return check(result[:, :, rows], self.reference(rows), self.dtype, f"{who} on {' '.join(self.labels.values())}")

    def reference(self, rows: torch.Tensor) -> torch.Tensor:
        """The result for the queries `rows`, in float64."""
        form = FORMS[self.form]
        q, k, v = (t.double() for t in self.inputs[:3])
        scores = q[:, :, rows] @ k.transpose(-1, -2) / math.sqrt(self.width)
        m, n = rows[:, None], torch.arange(self.length)[None, :]
        if form.changed is not None:
            scores = form.changed(scores, torch.arange(self.heads)[:, None, None], m, n, self.captures)
        if form.visible is not None:
            scores = scores.masked_fill(~form.visible(m, n, self.captures), float("-inf"))
        return torch.softmax(scores, dim=-1) @ v


@dataclass(frozen=True)
class Decode:
    """One query for each of `group` heads over `length` keys that they share; `bytes` of keys and values in all."""

    dtype: str
    width: int
    length: int
    bytes: int
    group: int = 8

    @cached_property
    def inputs(self) -> Tensors:
        """q (B, H, 1, D), k and v (B, K, N, D)."""
        generator = torch.Generator().manual_seed(0)
        kind = DTYPES[self.dtype]
        one = 2 * self.length * self.width * kind.itemsize
        groups = max(1, self.bytes // one)
        heads = math.gcd(groups, 8)
        k = torch.empty(groups // heads, heads, self.length, self.width, dtype=kind)
        v = torch.empty_like(k)
        for tensor in (k, v):
            tensor.normal_(generator=generator)
        q = torch.randn(groups // heads, heads * self.group, 1, self.width, generator=generator).to(kind)
        return q, k, v

    @property
    def folded_query(self) -> torch.Tensor:
        """The queries of a group as rows of one head: (B, K, group, D), the same memory."""
        q, k = self.inputs[:2]
        return q.view(k.shape[0], k.shape[1], self.group, self.width)

    @property
    def labels(self) -> dict[str, str]:
        return {"dtype": self.dtype, "D": str(self.width), "N": str(self.length)}

    @property
    def read_bytes(self) -> int:
        _, k, v = self.inputs
        return k.nbytes + v.nbytes

    def check(self, result: torch.Tensor, who: str) -> float:
        """The largest error of the first and the last group; WrongResultError where it is not rounding."""
        _, k, v = self.inputs
        found, expected = list[torch.Tensor](), list[torch.Tensor]()
        for batch, head in ((0, 0), (k.shape[0] - 1, k.shape[1] - 1)):
            q = self.folded_query[batch, head].double()
            scores = q @ k[batch, head].double().T / math.sqrt(self.width)
            expected.append(torch.softmax(scores, dim=-1) @ v[batch, head].double())
            found.append(result.view(self.folded_query.shape)[batch, head])
        name = f"{who} on decode {' '.join(self.labels.values())}"
        return check(torch.stack(found), torch.stack(expected), self.dtype, name)


def check(found: torch.Tensor, expected: torch.Tensor, dtype: str, what: str) -> float:
    """The largest error; WrongResultError where it, or the root mean square of all, is not rounding."""
    error = found.double() - expected
    largest, typical = error.abs().max().item(), error.square().mean().sqrt().item()
    bound = TOLERANCE[dtype]
    within = (
        largest <= bound * expected.abs().max().item() and typical <= bound * expected.square().mean().sqrt().item()
    )
    if not within:  # not a number is not within
        raise WrongResultError(f"{what}: off by {largest:.1e}, {typical:.1e} in the mean; that is not rounding")
    return largest
