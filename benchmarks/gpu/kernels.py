"""Our side: kernels of one attention with any wishes, the planner's candidates, and the check of what they compute."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from attir.compiler.attention_cases import DTYPES, FORMS, Case, Shape
from attir.compiler.kernels import INTERPRETER, current_gpu
from attir.compiler.triton_kernels import TritonKernels
from attir.compiler.triton_runtime import Interpreted, OnGpu, TritonRunner, machine
from attir.cost_model.devices import DEVICES, Device
from attir.cost_model.resources import TileConfig, refusal
from attir.cost_model.roofline import cycles_per_key, cycles_per_score
from attir.cost_model.schedule import AS_MANY_AS_FIT
from attir.ir.attributes import bf16, f16, f32
from attir.ir.dialects.attn import AttentionOp
from attir.passes.attention_shape import attention_shape
from attir.passes.plan_gpu import TILE_FIELDS, candidates, decode_candidates
from benchmarks.gpu.record import Checked

ROUNDOFF = {f16: 2.0**-11, bf16: 2.0**-8, f32: 2.0**-24}
MOST_CHECKED = 700
"""Queries, and keys of each of them, of a check."""

Wishes = tuple[tuple[str, int | str], ...]


def kernels_for(case: Case, device: str, wishes: Wishes = ()) -> TritonKernels:
    """The kernels of a problem on a GPU, or in the interpreter."""
    return TritonKernels(case.module(), current_gpu() if device == "cuda" else INTERPRETER, wishes, cache=False)


def runner_for(case: Case, device: str, wishes: Wishes = ()) -> TritonRunner:
    return TritonRunner(kernels_for(case, device, wishes), OnGpu(machine()) if device == "cuda" else Interpreted())


def schedule_of(runner: TritonRunner) -> Mapping[str, Any]:
    """The schedule of the kernel that was made last."""
    made = list(runner.kernels.made.values())
    return made[-1].kernel.plan if made else {}


# --- what to try


def wishes_for(case: Case, rows: int, device: str, count: int, *, ways: bool = True) -> dict[str, Wishes]:
    """By name: the planner's choice, `count` runners-up, and with `ways` other ways to run the chosen tiles."""
    found: dict[str, Wishes] = {"attir": ()}
    if device != "cuda":
        return {**found, "attir persistent": (("persistent", 3),), "attir pointers": (("descriptors", ""),)}
    gpu = DEVICES[current_gpu()]
    found |= {name: wish for wish in runners_up(case, rows, gpu, count) for name in [_named(wish)]}
    if not ways:
        return found
    if gpu.has_tma:
        other = "device" if rows else "host"
        found |= {f"attir {other} descriptors": (("descriptors", other),), "attir pointers": (("descriptors", ""),)}
    found |= {"attir swapped": (("swap", 1),)} if rows else {"attir persistent": (("persistent", AS_MANY_AS_FIT),)}
    return found


def runners_up(case: Case, rows: int, device: Device, count: int) -> list[Wishes]:
    """The tiles that the estimate finds best, in its order, none twice for another number of stages."""
    attention = next(AttentionOp(op) for op in case.module().walk() if AttentionOp.match(op))
    shape = replace(attention_shape(attention, few_rows=bool(rows)), bulk=device.has_tma)
    if rows:
        found = [c for c in decode_candidates(max(16, rows), shape) if refusal(c, shape, device) is None]
        found.sort(key=lambda config: cycles_per_key(config, shape, device))
    else:
        found = [c for c in candidates(device, shape) if refusal(c, shape, device) is None]
        found.sort(key=lambda config: cycles_per_score(config, shape, device))
    distinct: dict[tuple[int, int, int], TileConfig] = {}
    for config in found:
        distinct.setdefault((config.block_m, config.block_n, config.warps), config)
    return [_wishes(config, rows) for config in list(distinct.values())[1 : count + 1]]


def _wishes(config: TileConfig, rows: int) -> Wishes:
    values = (config.block_m, config.block_n, config.warps, config.stages)
    wanted = dict(zip(TILE_FIELDS, values, strict=True))
    return tuple((name, value) for name, value in wanted.items() if not rows or name in ("block_n", "num_stages"))


def _named(wishes: Wishes) -> str:
    return "attir " + " ".join(f"{name.removeprefix('num_')}={value}" for name, value in wishes)


# --- what they compute


def problems(large: bool) -> list[tuple[Case, Shape]]:
    """Every form, dtype, a spread of head dimensions, few queries; lengths that no tile divides."""
    length = 333 if large else 70
    found = [
        (Case(dtype, 64, form=form), Shape(2, 4, 4, length, length + 9)) for form in FORMS for dtype in (f16, bf16)
    ]
    widths = (16, 72, 80, 96, 128, 192, 256) if large else (72, 128)
    found += [(Case(f16, width, form="causal"), Shape(1, 2, 2, length, length)) for width in widths]
    found += [
        (Case(f16, 64, group=4, form="alibi"), Shape(1, 4, 1, length, length)),
        (Case(f16, 64, group=4), Shape(1, 4, 1, 1, 5 * length)),
        (Case(f32, 64, form="causal"), Shape()),
    ]
    return found


def check(case: Case, shape: Shape, device: str, runner: TritonRunner | None = None, name: str = "") -> Checked:
    """Run one problem and measure its error."""
    q, k, v, captures = case.tensors(shape, device=device)
    run = runner or runner_for(case, device)
    out, _ = run(q, k, v, captures, case.lse)
    exact, _ = case.reference(q.double(), k.double(), v.double(), captures)
    plain, _ = case.reference(q, k, v, captures)
    error, plain_error = ((x.double() - exact).abs().max().item() for x in (out, plain))
    bound = 2 * plain_error + 2 * ROUNDOFF[case.dtype] * v.abs().max().item()
    title = f"{case.form} {case.dtype} D={case.width} group={case.group} M={shape.queries} N={shape.keys}"
    return Checked(f"{title} {name}".strip(), error, bound)


def small(shape: Shape) -> Shape:
    """A shape of the same kind that is cheap to check; keys of single queries still suffice to be split."""
    group = shape.heads // shape.key_heads
    longest = MOST_CHECKED if shape.queries > 1 else 10 * MOST_CHECKED
    return Shape(1, 2 * group, 2, min(shape.queries, MOST_CHECKED), min(shape.keys, longest))


def inputs(case: Case, shape: Shape, device: str, copies: int) -> list[tuple[torch.Tensor, ...]]:
    """q, k, v and the captures, so many times; made on the device, since large ones take long elsewhere."""
    q, k, v, captures = _on_device(case, shape, device)
    return [tuple(x.clone() for x in (q, k, v, *captures)) for _ in range(copies)]


def _on_device(
    case: Case, shape: Shape, device: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, tuple[torch.Tensor, ...]]:
    def random(heads: int, length: int, width: int) -> torch.Tensor:
        return torch.randn(shape.batch, heads, length, width, dtype=DTYPES[case.dtype], device=device)

    value_width = case.value_width or case.width
    captures = _usual_captures(case, shape)
    return (
        random(shape.heads, shape.queries, case.width),
        random(shape.key_heads, shape.keys, case.width),
        random(shape.key_heads, shape.keys, value_width),
        tuple(capture.to(device) for capture in captures),
    )


def _usual_captures(case: Case, shape: Shape) -> tuple[torch.Tensor, ...]:
    """Captures as models have them, where those for tests are rougher: whole documents, padding at the end."""
    captures = case.rule.capture(shape, torch.Generator().manual_seed(0))
    if case.form == "documents":
        return tuple(ids.sort(-1).values for ids in captures)
    if case.form == "dropped":
        return tuple((torch.arange(shape.keys) < 3 * shape.keys // 4).expand_as(kept).clone() for kept in captures)
    return captures
