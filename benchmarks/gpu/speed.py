"""Times every problem within a budget: what a kernel computes is checked first, then contenders take turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

import attir
from attir.compiler import verified
from attir.ir.diagnostics import CompileError
from benchmarks.gpu.bench import Bench, Budget, Call, copies_for, take_turns
from benchmarks.gpu.kernels import (
    Wishes,
    check,
    inputs,
    kernels_for,
    runner_for,
    schedule_of,
    small,
    wishes_for,
)
from benchmarks.gpu.layer import Layer, LayerSize, layer_inputs
from benchmarks.gpu.problems import PROBLEMS, Problem
from benchmarks.gpu.record import Checked, Record, Timed
from benchmarks.gpu.rivals import flex_calls, sdpa_calls

LEAST_SECONDS = 12.0
"""A problem is not begun with less time left than this."""

TURNS_SECONDS = 4.0
RUNNERS_UP, MANY_RUNNERS_UP = 2, 12
VERIFY_SECONDS = 90
SPECIALISED: Wishes = (("specialised", 1),)
LAYER = LayerSize()
MOST_EXACT = 256
"""Tokens of a layer that is compared with one in float64; longer ones are compared with eager PyTorch."""

CEILING = "ceiling"


def speed(
    record: Record,
    bench: Bench,
    budget: Budget,
    problems: Sequence[Problem] = PROBLEMS,
    layer: LayerSize = LAYER,
    *,
    collect: bool,
) -> None:
    """Fill in the times of every problem that there is time for, the ceilings first."""
    record.timed += ceilings(bench)
    specialised = specialised_problem(bench.device)
    if specialised:
        record.absent["attir specialised"] = specialised
    for number, problem in enumerate(problems):
        if budget.left < LEAST_SECONDS:
            record.absent[problem.title] = f"no time left ({budget.left:.0f} s)"
            continue
        # The layer comes after what matters most, so that it is not what the budget cuts.
        if number == len(problems) // 2:
            time_layer(record, bench, budget, layer)
        count = MANY_RUNNERS_UP if collect else RUNNERS_UP
        time_problem(record, bench, budget, problem, count, specialised=not specialised)
    if collect:
        record.collected = [
            {"problem": timed.problem, "schedule": dict(timed.schedule), "milliseconds": list(timed.milliseconds)}
            for timed in record.timed
            if timed.schedule
        ]


def time_problem(
    record: Record, bench: Bench, budget: Budget, problem: Problem, count: int, *, specialised: bool
) -> None:
    """Every contender of one problem."""
    case, shape = problem.case, problem.shape
    copies = inputs(case, shape, bench.device, copies_for(problem.key_bytes))
    calls, schedules = ours(record, bench, budget, problem, copies, count, specialised=specialised)
    calls |= _working(record, bench, problem, sdpa_calls(case, copies))
    if budget.left > LEAST_SECONDS or problem.kind == "variant":
        calls |= _working(record, bench, problem, {"flex": flex_calls(bench, case, copies)})
    if problem.kind in ("decode", "latency"):
        calls = {name: [bench.capture(call) for call in each] for name, each in calls.items()}
    seconds = min(TURNS_SECONDS, max(0.5, budget.left / 4))
    for name, times in take_turns(bench, calls, seconds).items():
        record.timed.append(Timed(problem.title, name, times, problem.flops, problem.bytes, schedules.get(name, {})))
        print(record.timed[-1], flush=True)


def ours(
    record: Record,
    bench: Bench,
    budget: Budget,
    problem: Problem,
    copies: Sequence[Sequence[torch.Tensor]],
    count: int,
    *,
    specialised: bool,
) -> tuple[dict[str, list[Call]], dict[str, Mapping[str, Any]]]:
    """Calls and schedules of the candidates that compute the right thing; the first is the planner's choice."""
    case, shape = problem.case, problem.shape
    queries = kernels_for(case, bench.device).choice(shape.queries)
    wanted = wishes_for(case, queries.rows, bench.device, count, ways=problem.kind != "variant")
    if specialised and problem.kind == "forward":
        wanted["attir specialised"] = SPECIALISED
    calls: dict[str, list[Call]] = {}
    schedules: dict[str, Mapping[str, Any]] = {}
    for name, wishes in wanted.items():
        if calls and budget.left < LEAST_SECONDS:
            break
        try:
            runner = runner_for(case, bench.device, wishes)
            found = check(case, small(shape), bench.device, runner, name)
        except CompileError as refused:
            record.absent[f"{name}: {problem.title}"] = str(refused).splitlines()[0]
            continue
        record.checked.append(found)
        if not found.holds:
            print(f"WRONG {found.case}: {found.error:.1e} (bound {found.bound:.1e})", flush=True)
            continue
        runs = [lambda r=runner, x=x: r(x[0], x[1], x[2], x[3:], False) for x in copies]
        runs[0]()
        calls[name], schedules[name] = runs, schedule_of(runner)
    return calls, schedules


def _working(
    record: Record, bench: Bench, problem: Problem, calls: Mapping[str, Sequence[Call]]
) -> dict[str, list[Call]]:
    """Rivals that run the problem; what the others say is noted."""
    found: dict[str, list[Call]] = {}
    for name, each in calls.items():
        try:
            each[0]()
            bench.finish()
        except Exception as refused:  # whatever a rival raises for what it cannot do
            lines = str(refused).strip().splitlines()
            record.absent[f"{name}: {problem.title}"] = lines[0] if lines else type(refused).__name__
            continue
        found[name] = list(each)
    return found


# --- a whole layer


def time_layer(record: Record, bench: Bench, budget: Budget, size: LayerSize) -> None:
    """One layer of a model: attir with the rest compiled by PyTorch, PyTorch alone, and eager."""
    dtype = torch.bfloat16 if bench.device == "cuda" else torch.float32
    layer = Layer(size, bench.device, dtype).eval()
    given = layer_inputs(size, bench.device, dtype)
    if bench.device == "cuda":
        fused: Any = attir.compile(layer, backend="triton", rest="inductor")
    else:
        fused = attir.compile(layer, backend="interpret", rest="eager")
    models: dict[str, Any] = {"attir": fused, "torch.compile": bench.compiled(layer), "eager": layer}
    with torch.no_grad():
        exact = layer.double()(*(x.double() for x in given)) if size.length <= MOST_EXACT else None
        layer.to(dtype)
        plain = layer(*given)
        scale = plain.abs().max().item()
        reference = plain.double() if exact is None else exact
        error = (models["attir"](*given).double() - reference).abs().max().item()
        record.checked.append(
            _layer_check(size.title, error, (plain.double() - reference).abs().max().item(), scale, dtype)
        )
        calls = {name: [lambda model=model: model(*given)] for name, model in models.items()}
        times = take_turns(bench, calls, min(TURNS_SECONDS, max(0.5, budget.left / 4)))
    for name, each in times.items():
        record.timed.append(Timed(size.title, name, each))
        print(record.timed[-1], flush=True)


def _layer_check(title: str, error: float, plain_error: float, scale: float, dtype: torch.dtype) -> Checked:
    """Twice the error of the eager layer, and four roundings of its largest output: it adds two residuals to that."""
    return Checked(title, error, 2 * plain_error + 4 * torch.finfo(dtype).eps * scale)


# --- ceilings


def ceilings(bench: Bench) -> list[Timed]:
    """The speed of a large copy (bytes read and written) and of a bf16 product of square matrices."""
    elements, size = (2**31, 8192) if bench.device == "cuda" else (2**12, 32)
    source = torch.empty(elements, dtype=torch.bfloat16, device=bench.device)
    target = torch.empty_like(source)
    a, b = (torch.randn(size, size, dtype=torch.bfloat16, device=bench.device) for _ in range(2))
    times = take_turns(bench, {"copy": [lambda: target.copy_(source)], "product": [lambda: a @ b]}, TURNS_SECONDS)
    found = [
        Timed(CEILING, "copy", times["copy"], bytes=2.0 * source.numel() * 2),
        Timed(CEILING, "product", times["product"], flops=2.0 * size**3),
    ]
    print(*found, sep="\n", flush=True)
    return found


# --- specialised warps


def specialised_problem(device: str) -> str:
    """Why kernels with specialised warps are not tried; empty where they pass attir's own check, whose record stays.

    The check has a process of its own: one that waits for itself forever would take the whole run with it.
    """
    if device != "cuda":
        return "specialised warps exist on GPUs alone"
    return verified.check("triton", timeout=VERIFY_SECONDS).reason
