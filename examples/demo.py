"""The whole way on a real model: capture, raise, optimise, emit, execute, compare.

Compiles a small randomly initialised Llama of transformers and a hand-written attention with
ALiBi and a sliding window, runs the emitted Triton kernels (on a CPU in Triton's interpreter),
and compares with eager PyTorch. `make demo` runs it.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from alibi_window import attention

import attir
from attir.compiler.target import load_target

DUMP = Path("build/demo")


def show(title: str, model: Any, inputs: tuple[torch.Tensor, ...], pick: Callable[[Any], torch.Tensor]) -> bool:
    """Compile and run `model`, print what attir says of it, and whether it agrees with eager."""
    folder = DUMP / title.partition(":")[0].replace(" ", "-").lower()
    print(f"\n=== {title} ===", flush=True)
    started = time.perf_counter()
    compiled = attir.compile(model, strict=True, dump=str(folder))
    with torch.no_grad():
        ours = pick(compiled(*inputs))
        seconds = time.perf_counter() - started
        eager = pick(model(*inputs))
        precise = pick(in_double(model)(*(x.double() if x.is_floating_point() else x for x in inputs)))
    print(attir.explain(compiled))
    error, eager_error = ((x.double() - precise).abs().max().item() for x in (ours, eager))
    bound = 2 * eager_error + 1e-6
    agrees = error <= bound
    print(f"error against float64: attir {error:.1e}, eager PyTorch {eager_error:.1e} (bound {bound:.1e}):", end=" ")
    print("agrees" if agrees else "DISAGREES")
    print(f"first result after {seconds:.1f} s; the IR of every step and the kernels lie in {folder}/")
    return agrees


def in_double(model: Any) -> Any:
    return copy.deepcopy(model).double() if isinstance(model, torch.nn.Module) else model


def main() -> int:
    generator = torch.Generator().manual_seed(0)
    llama = load_target("hf:llama", {"attn_implementation": "eager"}).call
    tokens = torch.randint(0, 128, (2, 48), generator=generator)
    q, k, v = (torch.randn(2, 4, 80, 64, generator=generator) for _ in range(3))
    slopes = 2.0 ** -torch.arange(1.0, 5.0)
    agreed = [
        show("Llama: transformers, eager attention, two layers", llama, (tokens,), lambda out: out.logits),
        show("ALiBi window: attention written by hand", attention, (q, k, v, slopes), lambda out: out),
    ]
    return 0 if all(agreed) else 1


if __name__ == "__main__":
    sys.exit(main())
