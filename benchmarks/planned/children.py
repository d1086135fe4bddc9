"""What is measured in a process of its own, with caches of its own; prints one line of JSON. See `latency.child`."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, cast

import torch
from torch._dynamo.utils import counters

import attir
from attir.compiler import native_cache, serving
from benchmarks.cpu.problems import FORMS, Plain, Problem
from benchmarks.cpu.rivals import attir_compiled, flex_function, require_flex_kernel, torch_compile

HEADS = 8
UNLIMITED = 1e6
"""Seconds that exhaustive tuning may take."""

FIRST = Problem("full", "f32", 64, 64, 1)
"""What runs before anything is timed: what is imported and started once is no part of tuning."""


def tuned(way: str, form: str, dtype: str, width: str, length: str) -> dict[str, Any]:
    """Seconds of the first call of attir with `autotune=way`."""
    problem = Problem(form, dtype, int(width), int(length), HEADS)
    inputs = problem.inputs
    attir_compiled(FORMS[FIRST.form].plain, *FIRST.inputs)
    limit = {"tune_seconds": UNLIMITED} if way == "full" else {}
    compiled = cast(Any, attir.compile)(FORMS[form].plain, backend="native", strict=True, autotune=way, **limit)
    seconds = _seconds(compiled, inputs)
    problem.check(compiled(*inputs), "attir")
    (site,) = attir.explain(compiled).sites
    return {"seconds": seconds, "source": site.variants[-1].plan.get("decision", {}).get("source", "")}


def flex(form: str, dtype: str, width: str, length: str) -> dict[str, Any]:
    """Seconds of the first call of FlexAttention with Inductor's own tuning, and what that tried."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = os.environ["ATTIR_CACHE_DIR"]
    problem = Problem(form, dtype, int(width), int(length), HEADS)
    _tuned_flex(FIRST)(*FIRST.inputs)
    function, inputs = _tuned_flex(problem), problem.inputs[:3]
    counters.clear()
    seconds = _seconds(function, inputs)
    require_flex_kernel()
    tried = counters["inductor"]["select_algorithm_autotune"]
    told = f"Flex with max-autotune times {tried} choices on this CPU" if tried else (
        "Flex with max-autotune has nothing to try on this CPU: it compiles its one kernel"
    )  # fmt: skip
    return {"seconds": seconds, "note": told}


def _tuned_flex(problem: Problem) -> Plain:
    return torch_compile(flex_function(problem), dynamic=False, fullgraph=True, mode="max-autotune-no-cudagraphs")


def _seconds(function: Plain, inputs: tuple[torch.Tensor, ...]) -> float:
    started = time.perf_counter()
    function(*inputs)
    return time.perf_counter() - started


def counted() -> dict[str, Any]:
    """How many kernels are measured and compiled where several attentions are tuned."""
    counts = {"measured": 0, "compiled": 0}

    def counting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            counts[name] += 1
            return function(*arguments, **options)

        return call

    cast(Any, native_cache).compile_object = counting("compiled", native_cache.compile_object)
    cast(Any, serving).tune = counting("measured", serving.tune)
    for form in ("full", "causal", "alibi", "document"):
        problem = Problem(form, "f32", 64, 256, 2)
        compiled = attir.compile(FORMS[form].plain, backend="native", strict=True, autotune="top3")
        problem.check(compiled(*problem.inputs), "attir")
    return dict(counts)


TASKS: dict[str, Callable[..., dict[str, Any]]] = {"tuned": tuned, "flex": flex, "counted": counted}


def main(argv: list[str]) -> None:
    torch.set_num_threads(1)
    with torch.no_grad():
        print(json.dumps(TASKS[argv[0]](*argv[1:])))


if __name__ == "__main__":
    main(sys.argv[1:])
