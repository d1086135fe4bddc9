"""Microseconds of Python that a call of a Triton kernel costs: as attir prepares it, and by Triton's `kernel[grid]`.

No GPU is needed: kernels are compiled for sm_90, and a driver that does nothing starts them. Both
ways end in the same call of the driver, whose own time is not in the figures. Run
`python benchmarks/launch_overhead.py`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import triton

sys.path.insert(0, str(Path(__file__).parents[1]))

from attir.compiler.attention_cases import Case, Shape
from attir.compiler.kernel_cache import load_module
from attir.compiler.kernels import build_kernel
from attir.compiler.triton_calls import Steps
from attir.compiler.triton_kernels import Choice, TritonKernels
from attir.compiler.triton_runtime import TritonRunner
from attir.ir.attributes import f16
from benchmarks.fake_driver import FakeGpu, FakeMachine, fake_driver

CALLS, ROUNDS = 2000, 7


def microseconds(call: Callable[[], object]) -> float:
    """A call's time, the least of some rounds."""
    best = float("inf")
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for _ in range(CALLS):
            call()
        best = min(best, time.perf_counter() - started)
    return 1e6 * best / CALLS


def jit_call(steps: Steps, tensors: tuple[torch.Tensor, ...]) -> Callable[[], object]:
    """The generated function `launch`, which starts its kernel through Triton, after allocating the result."""
    (step,) = steps.steps
    launch: Callable[..., None] = load_module(step.kernel.source, step.kernel.name).launch
    q = tensors[0]
    return lambda: launch(*tensors, torch.empty(q.shape, dtype=q.dtype, device=q.device))


def measure(name: str, case: Case, shape: Shape, *, pointers: bool = False) -> None:
    runner = TritonRunner(TritonKernels(case.module(), "sm_90"), FakeGpu(FakeMachine()))
    if pointers:
        kernel = build_kernel(case.module(), "sm_90", 0, (("descriptors", ""),))
        runner.kernels.made[Choice()] = Steps.of(kernel)
    q, k, v, captures = case.tensors(shape)

    def ours() -> object:
        return runner(q, k, v, captures, False)

    ours()
    figures = [f"attir {microseconds(ours):5.1f}"]
    (steps, *_) = runner.kernels.made.values()
    if len(steps.steps) == 1:
        jit = jit_call(steps, (q, k, v, *captures))
        jit()
        figures.append(f"Triton {microseconds(jit):5.1f}")
    number = f"{len(steps.steps)} kernel{'s' * (len(steps.steps) > 1)}"
    print(f"{name:<36}{number:<12}{', '.join(figures)} microseconds a call")


def main() -> None:
    with fake_driver() as driver, torch.no_grad():
        driver.quiet = True
        triton.set_allocator(lambda size, alignment, stream: torch.empty(size, dtype=torch.uint8))
        measure("prefill, pointers", Case(f16, 64, form="causal", lse=False), Shape(1, 4, 4, 512, 512), pointers=True)
        measure("prefill", Case(f16, 64, form="causal", lse=False), Shape(1, 4, 4, 512, 512))
        measure("decode, keys split", Case(f16, 128, group=4, lse=False), Shape(1, 8, 2, 1, 4096))


if __name__ == "__main__":
    main()
