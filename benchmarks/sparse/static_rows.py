"""Masks whose structure is known, against attention without a mask and against compiled FlexAttention."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
from torch.nn.attention import flex_attention as flex

from attir.compiler.attention_cases import Captures, Form, Shape
from attir.compiler.native_kernels import Choice
from attir.ir.attributes import bf16, f16, f32
from benchmarks.cpu.measuring import Call, interleaved
from benchmarks.cpu.problems import Plain
from benchmarks.cpu.rivals import flex_compiled

from .masks import GRID, Fractions, SparseCase, block_table, static_masks
from .rows import Row, Settings, heads_of, native_call, runner

WIDTH, SEED = 64, 0
IDEAL, FLEX, GIVEN = 0.8, 4.0, 0.7
KEEP, TABLE_HEADS = 0.1, 2
ROUNDOFF, ROWS_CHECKED = {f32: 2.0**-24, bf16: 2.0**-8, f16: 2.0**-11}, 64
"""The rounding of results of about 1, and the rows that are compared with float64."""


def static(settings: Settings) -> Iterator[Row]:
    """Time without a mask over time with it, as a part of what the tiles allow that hold a kept score.

    Neighbourhoods, whose tokens the compiler puts into boxes, have a group of their own.
    """
    for length in settings.chosen((4096,), (4096, 8192, 16384)):
        heads = heads_of(length)
        for name, form in static_masks(length).items():
            if name.startswith(GRID):
                continue
            yield _static(name, form, Shape(1, heads, heads, length, length), settings)


def _static(name: str, form: Form, shape: Shape, settings: Settings) -> Row:
    case = SparseCase(f32, WIDTH, lse=False, mask=form)
    q, k, v, captures = case.tensors(shape, SEED)
    run, plain = runner(case), runner(SparseCase(f32, WIDTH, lse=False))
    calls = {"dense": native_call(plain, q, k, v, ()), "masked": native_call(run, q, k, v, captures)}
    times = interleaved(calls, 1, settings.seconds)
    plan = run.kernels.get(Choice(), None).schedule
    keep = form.keep
    assert keep is not None
    counted = Fractions.of(lambda m, n: keep(m, n, captures), shape.keys, plan.block_m, plan.edge)
    speedup = times.ratio("masked", "dense")
    figures = {
        "kept": counted.kept, "live": counted.live, "tiles": f"{plan.block_m}x{plan.block_n}/{plan.edge}",
        "ideal": 1 / counted.live, "speed-up": speedup, "of ideal": speedup * counted.live,
        "of kept scores": speedup * counted.kept,
    }  # fmt: skip
    note = f"no tile keeps more than {counted.kept / counted.live:.2f} of what it computes"
    return Row(
        f"{name}, N = {shape.keys}, {shape.heads} heads", figures, f">= {IDEAL} of the ideal (live tiles)",
        speedup * counted.live >= IDEAL, note if counted.kept < IDEAL * counted.live else "", times.seconds,
    )  # fmt: skip


def against_flex(settings: Settings) -> Iterator[Row]:
    """Time of FlexAttention with its BlockMask, compiled, over ours; making the BlockMask is told apart."""
    for length in settings.chosen((4096,), (4096, 8192)):
        shape = Shape(1, 1, 1, length, length)
        for name, form in static_masks(length).items():
            for dtype in () if name.startswith(GRID) else (f32,) if settings.quick else (f32, bf16, f16):
                yield _against_flex(name, SparseCase(dtype, WIDTH, lse=False, mask=form), shape, settings)


def _against_flex(name: str, case: SparseCase, shape: Shape, settings: Settings) -> Row:
    q, k, v, captures = case.tensors(shape, SEED)
    ours = native_call(runner(case), q, k, v, captures)
    started = time.perf_counter()
    theirs = flex_plain(case.mask, captures, shape.keys)
    making = time.perf_counter() - started
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # Inductor writes the number into its code
    try:
        compiled = flex_compiled(theirs, q, k, v)
    finally:
        torch.set_num_threads(threads)
    calls: dict[str, Call] = {"flex": lambda: compiled(q, k, v), "attir": ours}
    errors = {rival: last_rows_error(case, (q, k, v), captures, call()) for rival, call in calls.items()}
    times = interleaved(calls, 1, settings.seconds)
    faster = times.ratio("attir", "flex")
    figures = {
        "faster": faster, "attir ms": 1e3 * times.median("attir"), "flex ms": 1e3 * times.median("flex"),
        "making the BlockMask ms": 1e3 * making, "error": errors["attir"], "flex error": errors["flex"],
    }  # fmt: skip
    held = faster >= FLEX and errors["attir"] <= 2 * errors["flex"] + ROUNDOFF[case.dtype]
    what = f"{name}, {case.dtype}, N = {shape.keys}, flex_attention"
    return Row(what, figures, f">= {FLEX:g} x", held, "", times.seconds)


def last_rows_error(
    case: SparseCase, inputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor], captures: Captures, out: torch.Tensor
) -> float:
    """The largest difference of the last rows from attention in float64."""
    q, k, v = (x.double() for x in inputs)
    keep, positions = case.mask.keep, torch.arange(k.shape[2])
    assert keep is not None
    scores = (q[:, :, -ROWS_CHECKED:] @ k.transpose(-1, -2)) * case.scale
    kept = keep(positions[-ROWS_CHECKED:, None], positions[None, :], captures)
    exact = torch.softmax(scores.masked_fill(~kept, float("-inf")), -1) @ v
    return (out[:, :, -ROWS_CHECKED:].double() - exact).abs().max().item()


def flex_plain(form: Form, captures: Captures, length: int) -> Plain:
    """FlexAttention under the mask, not compiled; its BlockMask is made here."""
    keep = form.keep
    assert keep is not None

    def mask_mod(b: torch.Tensor, h: torch.Tensor, m: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
        return keep(m, n, captures)

    block_mask = flex.create_block_mask(mask_mod, None, None, length, length, device="cpu")

    def function(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        result = flex.flex_attention(q, k, v, block_mask=block_mask)
        assert isinstance(result, torch.Tensor)
        return result

    return function


def given_lists(settings: Settings) -> Iterator[Row]:
    """A table of blocks that is given, another one for each head."""
    for length in settings.chosen((8192,), (8192, 16384, 32768)):
        shape, form = Shape(1, TABLE_HEADS, TABLE_HEADS, length, length), block_table(KEEP)
        case = SparseCase(f32, WIDTH, lse=False, mask=form)
        q, k, v, captures = case.tensors(shape, SEED)
        run, plain = runner(case), runner(SparseCase(f32, WIDTH, lse=False))
        calls = {"dense": native_call(plain, q, k, v, ()), "listed": native_call(run, q, k, v, captures)}
        times = interleaved(calls, 1, settings.seconds)
        speedup, kept = times.ratio("listed", "dense"), captures[0].float().mean().item()
        figures = {"kept": kept, "ideal": 1 / kept, "speed-up": speedup, "of ideal": speedup * kept}
        yield Row(
            f"block list, keep {KEEP:.0%}, {TABLE_HEADS} heads with lists of their own, N = {length}", figures,
            f">= {GIVEN} of the ideal", speedup * kept >= GIVEN, "", times.seconds,
        )  # fmt: skip
