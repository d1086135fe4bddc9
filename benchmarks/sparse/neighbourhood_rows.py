"""Neighbourhoods on grids of 2 and 3 axes: in the order of the rows, and with tokens put into boxes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import torch

from attir.compiler.attention_cases import Form, Position, Shape
from attir.compiler.kernels import compile_site
from attir.compiler.mask_algebra import Mask
from attir.compiler.mask_grids import neighborhood
from attir.compiler.native_kernels import Choice
from attir.compiler.native_runtime import NativeRunner
from attir.compiler.options import Options
from attir.compiler.prepare_site import Prepared, prepare
from attir.compiler.site_program import ProgramRunner
from attir.cost_model.neighborhood import Axis, BoxCount, count_boxes
from attir.cost_model.schedule import Schedule
from attir.ir.attributes import f32
from attir.ir.dialects.attn_tokens import TokenOrderOp
from attir.passes.permute_tokens import PermuteTokens
from benchmarks.cpu.measuring import Call, interleaved
from benchmarks.cpu.rivals import flex_compiled

from .masks import SparseCase
from .rows import Row, Settings, heads_of, native_call, runner
from .static_rows import flex_plain

WIDTH, SEED = 64, 0
ACHIEVABLE, FLEX = 0.8, 4.0
FLEX_TOKENS = 8192
"""At most, for FlexAttention, whose BlockMask is made of the whole mask."""


@dataclass(frozen=True)
class Neighbourhood:
    """Windows on a grid, alike along every axis."""

    shape: tuple[int, ...]
    window: int
    stride: int = 1

    @property
    def tokens(self) -> int:
        return prod(self.shape)

    @property
    def axes(self) -> list[Axis]:
        return [Axis(length, self.window, self.stride) for length in self.shape]

    @property
    def mask(self) -> Mask:
        return neighborhood(self.shape, self.window, self.stride)

    @property
    def name(self) -> str:
        grid, window = (" x ".join(map(str, x)) for x in (self.shape, (self.window,) * len(self.shape)))
        return f"{grid}, windows of {window}, stride {self.stride}"


PROBLEMS = (
    Neighbourhood((64, 64), 16),
    Neighbourhood((64, 64), 16, 8),
    Neighbourhood((64, 64), 16, 16),
    Neighbourhood((128, 128), 32),
    Neighbourhood((128, 128), 32, 8),
    Neighbourhood((128, 128), 32, 16),
    Neighbourhood((24, 24, 24), 8),
    Neighbourhood((24, 24, 24), 8, 8),
)
QUICK = PROBLEMS[1], PROBLEMS[-1]


def neighbourhood_rows(settings: Settings) -> Iterator[Row]:
    """Time without a mask over time with boxes, copies included, as a part of what the simulator says they allow."""
    problems = [p for p in PROBLEMS if not settings.lengths or p.tokens in settings.lengths]
    for problem in QUICK if settings.quick and not settings.lengths else problems:
        yield from _rows(problem, settings)


def _rows(problem: Neighbourhood, settings: Settings) -> Iterator[Row]:
    """One row beside attention without a mask, and one beside FlexAttention where that is measured."""
    case, tokens, heads = SparseCase(f32, WIDTH, lse=False), problem.tokens, heads_of(problem.tokens)
    q, k, v, _ = case.tensors(Shape(1, heads, heads, tokens, tokens), SEED)
    step = PermuteTokens("avx512", force=True, queries=tokens, keys=tokens)
    rows, boxes = prepare(case.module(), problem.mask), prepare(case.module(), problem.mask, [step])
    in_rows, in_boxes = _runner(rows, tokens), _runner(boxes, tokens)
    dense = native_call(runner(case), q, k, v, ())
    permuted = ProgramRunner(boxes.program, in_boxes)
    calls: dict[str, Call] = {
        "dense": dense,
        "rows": native_call(in_rows, q, k, v, ()),
        "boxes": lambda: permuted(q, k, v, (), False)[0],
    }
    if tokens <= FLEX_TOKENS:
        calls["flex"] = _flex(problem, q, k, v)
    error = max((call() - calls["rows"]()).abs().max().item() for name, call in calls.items() if name != "dense")
    times = interleaved(calls, 1, settings.seconds)
    found = _simulated(problem, boxes, in_boxes.kernels.get(Choice(), None).schedule)
    speedup = times.ratio("boxes", "dense")
    figures: dict[str, float | str] = {f"{name} ms": 1e3 * times.median(name) for name in calls}
    figures |= {
        "kept": found.kept / found.scores, "ideal": found.ideal, "achievable": found.achievable, "speed-up": speedup,
        "of ideal": speedup / found.ideal, "of achievable": speedup / found.achievable,
        "rows over boxes": times.ratio("boxes", "rows"), "difference": error,
    }  # fmt: skip
    held = speedup >= ACHIEVABLE * found.achievable and error < 1e-4
    yield Row(
        f"{problem.name}, {heads} heads", figures, f">= {ACHIEVABLE} of the achievable", held,
        " ".join(boxes.remarks), times.seconds,
    )  # fmt: skip
    if "flex" in calls:
        faster = times.ratio("boxes", "flex")
        told = {"faster": faster, "boxes ms": figures["boxes ms"], "flex ms": figures["flex ms"]}
        yield Row(f"{problem.name}, {heads} heads, f32, flex_attention", told, f">= {FLEX:g} x", faster >= FLEX)


def _runner(prepared: Prepared, tokens: int) -> NativeRunner:
    found = compile_site(prepared.program.kernel(), Options(backend="native"), tokens).runner
    assert isinstance(found, NativeRunner)
    return found


def _flex(problem: Neighbourhood, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> Call:
    """Compiled FlexAttention with its BlockMask, in the order of the rows."""
    mask = problem.mask

    def keep(m: Position, n: Position, _: object) -> torch.Tensor:
        kept = mask(0, 0, m, n)
        assert isinstance(kept, torch.Tensor)
        return kept

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # Inductor writes the number into its code
    try:
        compiled = flex_compiled(flex_plain(Form(keep=keep), (), problem.tokens), q, k, v)
    finally:
        torch.set_num_threads(threads)
    return lambda: compiled(q, k, v)


def _simulated(problem: Neighbourhood, prepared: Prepared, schedule: Schedule) -> BoxCount:
    """The boxes of the tiles that the kernel computes: where the mask cuts, of as many keys as its edges hold."""
    order = next(TokenOrderOp(op) for op in prepared.program.module.walk() if TokenOrderOp.match(op))
    inner = order.inner.values if order.inner is not None else order.tile.values
    tile = order.tile.values
    if len(tile) != len(problem.shape):
        raise ValueError(f"boxes of {tile} do not lie on a grid of {problem.shape}")
    return count_boxes(problem.axes, _part(tile, inner, schedule.block_m), _part(tile, inner, schedule.edge))


def _part(tile: Sequence[int], inner: Sequence[int], tokens: int) -> list[int]:
    """The box of so many tokens that stand side by side in boxes of `tile` made of boxes of `inner`."""
    sides = list(inner)
    for axis in reversed(range(len(tile))):
        while prod(sides) < tokens and sides[axis] < tile[axis]:
            sides[axis] *= 2
    for axis in range(len(tile)):
        while prod(sides) > tokens and sides[axis] % 2 == 0:
            sides[axis] //= 2
    return sides
