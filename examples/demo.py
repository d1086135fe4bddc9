"""The whole way on a real model: capture, raise, optimise, emit, execute, compare.

Compiles a small randomly initialised Llama of transformers and a hand-written attention with
ALiBi and a sliding window, runs the emitted kernels (on a CPU native code, where torch-mlir is
installed), compares with eager PyTorch, and then measures the second beside what else PyTorch
offers for it. `make demo` runs it.
"""

from __future__ import annotations

import copy
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from alibi_window import WINDOW, attention

import attir
from attir.compiler.native_support import native_problem
from attir.compiler.target import load_target

DUMP = Path("build/demo")
SHAPE = (1, 8, 1024, 64)
SECONDS, ROUNDS = 6.0, 50
"""How long the measurement takes at most, and how often each way is measured at most."""


def show(title: str, model: Any, inputs: tuple[torch.Tensor, ...], pick: Callable[[Any], torch.Tensor]) -> bool:
    """Compile and run `model`, print what attir says of it, and whether it agrees with eager."""
    folder = DUMP / title.partition(":")[0].replace(" ", "-").lower()
    print(f"\n=== {title} ===", flush=True)
    started = time.perf_counter()
    # The three best kernels by the cost model are compiled and measured, where the kernels are native.
    compiled = attir.compile(model, strict=True, dump=str(folder), autotune="top3" if native_problem() == "" else "off")
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


def slopes_of(heads: int) -> torch.Tensor:
    return 2.0 ** -torch.arange(1.0, heads + 1.0)


def measure(generator: torch.Generator) -> bool:
    """Print the time of every way to compute the attention with ALiBi and a window; whether all agree."""
    q, k, v = (torch.randn(SHAPE, generator=generator) for _ in range(3))
    slopes = slopes_of(SHAPE[1])
    threads = torch.get_num_threads()
    sizes = "x".join(map(str, SHAPE))
    print(f"\n=== Speed: ALiBi window, {sizes} f32, {threads} thread{'s' * (threads != 1)} ===", flush=True)
    with torch.no_grad():
        ways = {
            "attir": calls(attir.compile(attention, strict=True), q, k, v, slopes),
            "eager PyTorch": calls(attention, q, k, v, slopes),
            "scaled_dot_product_attention (1)": with_dense_mask(q, k, v, slopes),
        }
        flex, problem = compiled_flex_attention(q, k, v, slopes)
        if flex is not None:
            ways["flex_attention, compiled"] = flex
        precise = attention(q.double(), k.double(), v.double(), slopes.double())
        errors = {name: (way().double() - precise).abs().max().item() for name, way in ways.items()}
        times = medians(ways)
    print(f"{'':34}{'median ms':>10}{'attir x':>9}{'error':>10}")
    for name, milliseconds in times.items():
        print(f"{name:34}{milliseconds:10.2f}{milliseconds / times['attir']:9.1f}{errors[name]:10.1e}")
    print("(1) takes ALiBi and the window only as a dense mask; making it is not in the time")
    if problem:
        print(f"flex_attention is left out: {problem}")
    return max(errors.values()) < 1e-5


def calls(function: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> Callable[[], torch.Tensor]:
    return lambda: function(*inputs)


def with_dense_mask(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, slopes: torch.Tensor
) -> Callable[[], torch.Tensor]:
    positions = torch.arange(q.shape[-2])
    distance = positions[:, None] - positions[None, :]
    hidden = (distance < 0) | (distance >= WINDOW)
    mask = (-slopes[:, None, None] * distance).masked_fill(hidden, float("-inf"))[None]
    sdpa = torch.nn.functional.scaled_dot_product_attention
    return lambda: sdpa(q, k, v, attn_mask=mask)


def compiled_flex_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, slopes: torch.Tensor
) -> tuple[Callable[[], torch.Tensor] | None, str]:
    """FlexAttention with the same bias and a block mask of the same window, or why there is none."""
    from torch.nn.attention import flex_attention as flex

    def bias(score: torch.Tensor, _: Any, h: torch.Tensor, m: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
        return score - slopes[h] * (m - n)

    def window(_: Any, __: Any, m: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
        return (m - n >= 0) & (m - n < WINDOW)

    try:
        mask = flex.create_block_mask(window, None, None, q.shape[2], k.shape[2], device="cpu")
        compiled = cast(Any, torch).compile(flex.flex_attention)
        compiled(q, k, v, score_mod=bias, block_mask=mask)
    except Exception as problem:  # PyTorch's compiler needs one for C++, and says so in many ways
        return None, f"{type(problem).__name__}: {str(problem).strip().splitlines()[0]}"
    return lambda: compiled(q, k, v, score_mod=bias, block_mask=mask), ""


def medians(ways: Mapping[str, Callable[[], torch.Tensor]]) -> Mapping[str, float]:
    """The median time of each in ms; they run by turns, so that whatever else runs here slows all of them."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end and len(times["attir"]) < ROUNDS:
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            times[name].append(1e3 * (time.perf_counter() - started))
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> int:
    generator = torch.Generator().manual_seed(0)
    llama = load_target("hf:llama", {"attn_implementation": "eager"}).call
    tokens = torch.randint(0, 128, (2, 48), generator=generator)
    q, k, v = (torch.randn(2, 4, 80, 64, generator=generator) for _ in range(3))
    agreed = [
        show("Llama: transformers, eager attention, two layers", llama, (tokens,), lambda out: out.logits),
        show("ALiBi window: attention written by hand", attention, (q, k, v, slopes_of(4)), lambda out: out),
        measure(generator),
    ]
    return 0 if all(agreed) else 1


if __name__ == "__main__":
    sys.exit(main())
