"""The process that checks kernels with specialised warps: `python -m attir.compiler.verify_specialised BACKEND`.

Prints one line of JSON: whether all problems are right and the same each time, why not, and on a GPU how
many times faster than plain kernels they are.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Sequence
from typing import Any, cast

import torch

from ..ir.attributes import FloatAttr, FunctionType, IntegerAttr, StringAttr, Symbol, TensorType, f16, f32, i1
from ..ir.builder import Builder
from ..ir.core import Block, Operation, Region
from ..ir.diagnostics import CompileError
from ..ir.dialects.arith import CmpIOp
from ..ir.dialects.attn import AttentionOp, YieldOp, region_block
from ..ir.dialects.builtin import ModuleOp
from ..ir.dialects.func import FuncOp, ReturnOp
from .kernels import INTERPRETER
from .sites import Runner
from .triton_runtime import triton_site
from .verified import problem_name

B, H, M, N = (Symbol(name) for name in "BHMN")
LENGTHS = ((257, 385), (1000, 1000))
SMALL_LENGTHS = ((70, 90),)
REPEATS, ROUNDS, LONG = 20, 11, 8192
ROUNDOFF = 2.0**-11
WISHES = (("specialised", 1),)
SMALL = (("block_m", 32), ("block_n", 16))


def problem(width: int, causal: bool) -> Operation:
    """A function around one attention of f16 heads, with its log-sum-exp."""
    q, k = (TensorType((B, H, length, width), f16) for length in (M, N))
    block = Block.with_arguments([q, k, k], ["q", "k", "v"])
    mask = Region()
    if causal:
        inside = region_block("mask", [])
        builder = Builder(inside)
        *_, m, n = inside.arguments
        kept = builder.create(CmpIOp, [n, m], [i1], {"predicate": CmpIOp.predicate_attr("sle")}).out
        builder.create(YieldOp, [kept])
        mask = Region([inside])
    results = [q, TensorType((B, H, M), f32)]
    properties = {"scale": FloatAttr(1.0 / math.sqrt(width)), "group": IntegerAttr(1)}
    op = AttentionOp.create(block.arguments, results, properties, [Region(), mask])
    block.append(op.operation)
    block.append(ReturnOp.create([op.out, op.lse]).operation)
    names = {"sym_name": StringAttr("attention"), "function_type": FunctionType((q, k, k), tuple(results))}
    module = ModuleOp.create(regions=[Region([Block()])])
    module.body.block.append(FuncOp.create(properties=names, regions=[Region([block])]).operation)
    return module.operation


def check(backend: str) -> dict[str, Any]:
    """The verdict on all problems."""
    on_gpu, speedups = backend == "triton", dict[str, float]()
    target, device = (_gpu(), "cuda") if on_gpu else (INTERPRETER, "cpu")
    for width in (64, 128) if on_gpu else (32,):
        for causal in (False, True):
            module = problem(width, causal)
            wishes = WISHES if on_gpu else (*WISHES, *SMALL)
            plain = triton_site(module, target, wishes=() if on_gpu else SMALL).runner
            special = triton_site(module, target, wishes=wishes, verified=True).runner
            for queries, keys in LENGTHS if on_gpu else SMALL_LENGTHS:
                tensors = _tensors(queries, keys, width, device)
                if reason := _wrong(special, tensors, causal):
                    where = f"{problem_name(causal, width)}, {queries} queries, {keys} keys"
                    return _failed(f"{where}: {reason}")
            if on_gpu:
                speedups[problem_name(causal, width)] = _speedup(plain, special, width)
    return {"passed": True, "reason": "", "speedups": speedups}


def _failed(reason: str) -> dict[str, Any]:
    nothing: dict[str, float] = {}
    return {"passed": False, "reason": reason, "speedups": nothing}


def _gpu() -> str:
    from .kernels import current_gpu

    return current_gpu()


def _tensors(queries: int, keys: int, width: int, device: str, heads: int = 2) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(queries + keys + width)
    sizes = ((1, heads, queries, width), (1, heads, keys, width), (1, heads, keys, width))
    return tuple(torch.randn(size, generator=generator).half().to(device) for size in sizes)


def _wrong(runner: Runner, tensors: Sequence[torch.Tensor], causal: bool) -> str:
    """How a kernel errs; empty where it does not: twice the error of plain arithmetic in f16, plus rounding."""
    q, k, v = tensors
    out, _ = runner(q, k, v, [], True)
    exact, plain = _reference(q.double(), k.double(), v.double(), causal), _reference(q, k, v, causal)
    bound = 2 * _distance(plain, exact) + 2 * ROUNDOFF * v.abs().max().item()
    if not _distance(out, exact) <= bound:
        return f"error {_distance(out, exact):.1e}, of at most {bound:.1e}"
    for _ in range(REPEATS if q.is_cuda else 1):
        again, _ = runner(q, k, v, [], True)
        if not torch.equal(out, again):
            return "two runs of one kernel on the same numbers differ"
    return ""


def _reference(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool) -> torch.Tensor:
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[3])
    if causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(later, float("-inf"))
    return torch.softmax(scores, -1) @ v


def _distance(x: torch.Tensor, exact: torch.Tensor) -> float:
    return (x.double() - exact.double()).abs().max().item()


def _speedup(plain: Runner, special: Runner, width: int) -> float:
    """How many times faster than the plain kernel the other one is on long texts: medians, taken in turns."""
    q, k, v = _tensors(LONG, LONG, width, "cuda", heads=16)
    times: dict[Runner, list[float]] = {plain: [], special: []}
    for turn in range(ROUNDS + 3):
        for runner, found in times.items():
            start, end = (cast(Any, torch).cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            runner(q, k, v, [], True)
            end.record()
            cast(Any, torch).cuda.synchronize()
            if turn >= 3:  # the first calls compile and warm up
                found.append(start.elapsed_time(end))
    return statistics.median(times[plain]) / statistics.median(times[special])


def main() -> int:
    """Print the verdict; the exit status says nothing more."""
    verdict: dict[str, Any]
    try:
        verdict = check(sys.argv[1])
    except CompileError as problem_:
        verdict = _failed(str(problem_).splitlines()[0])
    print(json.dumps(verdict))
    return 0


if __name__ == "__main__":
    sys.exit(main())
