"""Where one way overtakes another as a size grows: as measured, and as the planner's models have it.

Sizes grow in factors of two. What is measured is taken as one change, which may lie outside of the sizes; the model is
right where its choice differs at one size at most, draws aside.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

import attir
from attir.compiler.attention_cases import Case
from attir.compiler.host_cpu import host_has_byte_dots, host_target
from attir.compiler.measuring import measured
from attir.compiler.quantize_calibration import precision_of
from attir.compiler.schemes import scheme
from attir.compiler.tuning_problems import shape_of
from attir.cost_model.problem import Sizes
from attir.cost_model.quantization import EXACT, Work, predicted_seconds, rates_of
from attir.ir.attributes import bf16, f32
from attir.passes.ranking import Candidate
from benchmarks.cpu.measuring import Call
from benchmarks.cpu.rivals import forget_everything
from benchmarks.grouped import Row, Settings
from benchmarks.quantized.programs import Program
from benchmarks.sparse.masks import SparseCase, block_table

from .candidates import Posed, kernel_calls, with_threads
from .figures import as_one_step, change_in_words, steps_apart

STEPS = 1
"""By how many sizes the model may be off."""

DRAW = 0.02
"""The part of the time by which two ways may differ and be equally good: measurements are no better."""

QUICK_STEP = 2
"""Of a part, only every second size."""


@dataclass(frozen=True)
class Point:
    """Two ways at one size: measured seconds of both, and how many times as fast the model says the second is."""

    size: int
    seconds: tuple[float, float]
    predicted: float

    @property
    def gain(self) -> float:
        """The logarithm of how many times as fast the second is."""
        return math.log(self.seconds[0] / self.seconds[1])


def crossovers(settings: Settings) -> Iterator[Row]:
    """A row for each pair of ways."""
    threads = max(2, os.cpu_count() or 1)
    for heads in (1,) if settings.quick else (1, 2, 8):
        points = [_split(keys, heads, threads, settings) for keys in _sizes(settings, 64, 32768)]
        yield judged(f"split keys, decoding, {heads} heads, {threads} threads", "N", ("whole", "split"), points)
    for part in ("q", "k"):
        points = [_rope(part, length, settings) for length in _sizes(settings, 1 if part == "q" else 4, 2048)]
        yield judged(f"RoPE of {part}, 4 heads", "queries", ("outside", "fused"), points)
    for length in (2048,) if settings.quick else (1024, 4096):
        points = [_listed(part, length, settings) for part in _sizes(settings, 1, length // 64)]
        yield judged(f"a table of blocks, N {length}", "of so many blocks one is kept", ("tested", "listed"), points)
    for width in (128,) if settings.quick else (64, 128):
        points = [_int8(length, width, settings) for length in _sizes(settings, 16, 4096)]
        yield judged(f"int8 products, D {width}", "N", ("f32", "int8"), points)


def _sizes(settings: Settings, first: int, last: int) -> list[int]:
    """Powers of two from the first to the last."""
    sizes = [first << step for step in range((last // first).bit_length())]
    return sizes[::QUICK_STEP] if settings.quick else sizes


def judged(what: str, axis: str, names: tuple[str, str], points: Sequence[Point]) -> Row:
    """Whether the model changes where measurements do; `names` are the two ways."""
    sizes = [point.size for point in points]
    found, said = as_one_step([point.gain for point in points]), [point.predicted > 1 for point in points]
    # Where nothing is lost, both choices are right.
    told = [point.predicted > 1 if abs(point.gain) > DRAW else way for point, way in zip(points, found, strict=True)]
    apart = steps_apart(found, told)
    figures: dict[str, float | str] = {
        "measured": change_in_words(found, sizes, names), "model": change_in_words(said, sizes, names), "apart": apart,
        f"{names[1]} is faster": " ".join(f"{p.size}:{math.exp(p.gain):.2f}({p.predicted:.2f})" for p in points),
    }  # fmt: skip
    notes = [f"no change between {sizes[0]} and {sizes[-1]}"] if len(set(found)) == len(set(said)) == 1 else []
    draws = [str(point.size) for point in points if abs(point.gain) <= DRAW]
    notes += [f"draws at {', '.join(draws)}"] if draws else []
    times = {f"{axis} {p.size}": list(p.seconds) for p in points}
    what = f"{what}, by {axis}"
    return Row(what, figures, f"within {STEPS} step", apart <= STEPS, "; ".join(notes), times)


def _timed(calls: Mapping[str, Call], threads: int, settings: Settings) -> tuple[float, float]:
    """Seconds of the first two."""
    one, other = list(calls)[:2]
    times = measured(calls, reference=one, seconds=settings.seconds / 2, threads=threads)
    return times[one].seconds, times[other].seconds


def _split(keys: int, heads: int, threads: int, settings: Settings) -> Point:
    """One query for each head."""
    posed = Posed.of("decode", Case(bf16, 64, lse=False), Sizes(1, heads, heads, 1, keys))
    with with_threads(threads):
        best = [posed.ranking((("split", way),)).best for way in (0, 1)]
        return Point(keys, _pair(posed, best, threads, settings), _faster(best))


def _pair(posed: Posed, best: Sequence[Candidate], threads: int, settings: Settings) -> tuple[float, float]:
    calls = kernel_calls(posed, [candidate.schedule for candidate in best])
    return _timed(dict(zip(("one", "other"), calls, strict=True)), threads, settings)


def _faster(best: Sequence[Candidate]) -> float:
    return best[0].prediction.seconds / best[1].prediction.seconds


def _listed(part: int, length: int, settings: Settings) -> Point:
    """Under a table of blocks of which one in `part` is kept; the model is told what the table holds."""
    case = SparseCase(f32, 64, lse=False, mask=block_table(1 / part))
    posed = Posed.of("table", case, Sizes(1, 2, 2, length, length))
    with with_threads(1):
        best = [posed.ranking((("lists", way),), told=True).best for way in (0, 1)]
        return Point(part, _pair(posed, best, 1, settings), _faster(best))


def _int8(length: int, width: int, settings: Settings) -> Point:
    """Bringing q and k into bytes in each call is counted."""
    case, chosen = Case(f32, width, lse=False), scheme("int8")
    inputs = case.tensors(shape_of(Sizes(1, 4, 4, length, length)))[:3]
    work = Work(4, 4, length, length, width, width, 4)
    rates = rates_of(host_target(), 1, integer_dots=host_has_byte_dots(host_target()))
    exact, few = (predicted_seconds(work, precision, rates) for precision in (EXACT, precision_of(chosen)))
    with with_threads(1):
        calls = {"f32": Program.of(case, None).call(inputs), "int8": Program.of(case, chosen).call(inputs)}
        return Point(length, _timed(calls, 1, settings), exact / few)


def _rope(part: str, length: int, settings: Settings) -> Point:
    """Queries, or as many keys as queries, are turned in front of attention; over 256 keys where queries are."""
    keys = 256 if part == "q" else length
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 4, n, 64, generator=generator) for n in (length, keys, keys))
    angles = torch.rand(length, 32, generator=generator)
    inputs = (q, k, v, angles.cos(), angles.sin())
    forget_everything()
    with with_threads(1):
        made = {fuse: _compiled(turned_queries if part == "q" else turned_keys, fuse)
                for fuse in ("never", "always", "auto")}  # fmt: skip
        for function in made.values():
            function(*inputs)
        calls: dict[str, Call] = {fuse: lambda fuse=fuse: made[fuse](*inputs) for fuse in ("never", "always")}
        seconds = _timed(calls, 1, settings)
    return Point(length, seconds, 2.0 if _absorbed(made["auto"]) else 0.5)


def _compiled(function: Callable[..., torch.Tensor], fuse: str) -> Callable[..., torch.Tensor]:
    return attir.compile(function, backend="native", strict=True, dynamic=False, fuse_rows=fuse)


def _absorbed(compiled: object) -> bool:
    """Whether the planner put what stands in front of the one attention into its kernel."""
    (site,) = attir.explain(compiled).sites
    return "absorbed" in str(site.plan.get("rows", ""))


def _turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    one, other = x.chunk(2, dim=-1)
    return torch.cat((one * cos - other * sin, other * cos + one * sin), dim=-1)


def turned_queries(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> torch.Tensor:
    return functional.scaled_dot_product_attention(_turned(q, cos, sin), k, v)


def turned_keys(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> torch.Tensor:
    return functional.scaled_dot_product_attention(q, _turned(k, cos, sin), v)
