"""Times from the call to the first result, and what a later call costs besides its kernel: attir beside FlexAttention.

    python benchmarks/compile_time.py [--rounds 5] [--device cuda] [--quick] [--json FILE]

Both compile the same functions, by turns in one process, each time from nothing: Dynamo is reset and
no cache on disk or in memory is used. On CPU tensors attir's kernel is then machine code, and Flex's
C++; compiling them is part of the time to the first result. FlexAttention gets its block mask ready
made.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import functools
import gc
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch._inductor.utils import fresh_cache
from torch.nn.attention import flex_attention as flex

from attir.compiler.backend import Backend
from attir.compiler.custom_op import Runner
from attir.compiler.native_runtime import NativeRunner
from attir.compiler.options import Options
from attir.compiler.triton_calls import GpuPlan, InterpretedPlan
from attir.compiler.triton_runtime import TritonRunner

WINDOW, SLOPE, LIMIT = 24, 0.25, 20.0
BATCH, HEADS, LENGTH, WIDTH = 1, 4, 64, 32
TARGET_RATIO, TARGET_OVERHEAD = 0.2, 50.0
Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
Function = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
Position = torch.Tensor
torch_compile = cast("Callable[..., Function]", torch.compile)  # pyright: ignore[reportUnknownMemberType]


@dataclass(frozen=True)
class Case:
    """One attention, as plain PyTorch for attir and in the words of FlexAttention."""

    name: str
    plain: Function
    score_mod: Callable[..., torch.Tensor] | None = None
    mask_mod: Callable[..., torch.Tensor] | None = None
    key_heads: int = HEADS

    def inputs(self, device: str) -> Inputs:
        generator = torch.Generator().manual_seed(0)
        heads = (HEADS, self.key_heads, self.key_heads)
        q, k, v = (torch.randn(BATCH, h, LENGTH, WIDTH, generator=generator).to(device) for h in heads)
        return q, k, v

    def flex(self, device: str) -> Function:
        """The same attention by FlexAttention, not compiled."""
        mask = self.mask_mod and flex.create_block_mask(self.mask_mod, None, None, LENGTH, LENGTH, device=device)
        grouped = self.key_heads != HEADS
        return functools.partial(flex.flex_attention, score_mod=self.score_mod, block_mask=mask, enable_gqa=grouped)  # pyright: ignore[reportReturnType]


def _causal(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)


def _grouped(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def _window_alibi(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    positions = torch.arange(q.shape[-2], device=q.device)
    distance = positions[:, None] - positions[None, :]
    scores = q @ k.transpose(-1, -2) / WIDTH**0.5 - SLOPE * distance
    visible = (distance >= 0) & (distance < WINDOW)
    return torch.softmax(scores.masked_fill(~visible, float("-inf")), dim=-1) @ v


def _softcap(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    scores = q @ k.transpose(-1, -2) / WIDTH**0.5
    return torch.softmax(LIMIT * torch.tanh(scores / LIMIT), dim=-1) @ v


def _keep_causal(b: Position, h: Position, m: Position, n: Position) -> torch.Tensor:
    return n <= m


def _keep_window(b: Position, h: Position, m: Position, n: Position) -> torch.Tensor:
    return (n <= m) & (m - n < WINDOW)


def _score_alibi(s: torch.Tensor, b: Position, h: Position, m: Position, n: Position) -> torch.Tensor:
    return s - SLOPE * (m - n)


def _score_softcap(s: torch.Tensor, b: Position, h: Position, m: Position, n: Position) -> torch.Tensor:
    return LIMIT * torch.tanh(s / LIMIT)


CASES = (
    Case("causal", _causal, mask_mod=_keep_causal),
    Case("sliding window + ALiBi", _window_alibi, _score_alibi, _keep_window),
    Case("softcap", _softcap, _score_softcap),
    Case("causal, 2 query heads a key head", _grouped, mask_mod=_keep_causal, key_heads=HEADS // 2),
)


@dataclass
class Times:
    """What was measured of one case: seconds to the first result and for the second call, one of each a round.

    `overhead` is in microseconds a call, for attir alone: `call` with an empty kernel, `floor` the
    same function as a graph that does nothing, so that `call - floor` is attir's.
    """

    attir: list[float] = field(default_factory=list[float])
    attir_again: list[float] = field(default_factory=list[float])
    flex: list[float] = field(default_factory=list[float])
    flex_again: list[float] = field(default_factory=list[float])
    call: list[float] = field(default_factory=list[float])
    floor: list[float] = field(default_factory=list[float])

    @property
    def ratio(self) -> float:
        """The time of attir to the first result as a part of Flex's."""
        return statistics.median(self.attir) / statistics.median(self.flex)

    @property
    def overhead(self) -> float:
        """Microseconds a call of one site, besides the kernel and Dynamo's guards."""
        return statistics.median(c - f for c, f in zip(self.call, self.floor, strict=True))


@contextlib.contextmanager
def nothing_compiled() -> Generator[None]:
    """No cache of PyTorch, Triton or attir, in memory or on disk, holds anything."""
    cast(Any, torch.compiler).reset()
    gc.collect()
    before = os.environ.get("ATTIR_CACHE_DIR")
    config = cast(Any, torch.compiler).config
    with (
        tempfile.TemporaryDirectory() as folder,
        fresh_cache(),
        config.patch(force_disable_caches=True),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", "dynamo_pgo force disabled")
        os.environ["ATTIR_CACHE_DIR"] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ["ATTIR_CACHE_DIR"]
            else:
                os.environ["ATTIR_CACHE_DIR"] = before


def attir_compiled(case: Case) -> tuple[Function, Backend]:
    backend = Backend(Options(strict=True, cache=False))
    return torch_compile(case.plain, backend=backend), backend


def seconds(call: Callable[[], torch.Tensor]) -> tuple[float, torch.Tensor]:
    """How long `call` takes until its result is there, and the result."""
    started = time.perf_counter()
    result = call()
    if result.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started, result


def first_and_second(compile_it: Callable[[], Function], inputs: Inputs) -> tuple[float, float, torch.Tensor]:
    """Seconds from compiling to the first result, seconds of a second call, and the result."""
    with nothing_compiled(), torch.no_grad():
        compiled: list[Function] = []

        def compile_and_call() -> torch.Tensor:
            compiled.append(compile_it())
            return compiled[0](*inputs)

        first, result = seconds(compile_and_call)
        again, _ = seconds(lambda: compiled[0](*inputs))
    return first, again, result


def start_nothing(*arguments: object) -> None:
    """In place of what starts a kernel."""


@dataclass(frozen=True)
class EmptyFunction:
    """Machine code that does nothing."""

    def run(self, block: int, threads: int) -> None: ...


def empty(runner: Runner) -> None:
    """Let a runner do everything but start its kernel."""
    if isinstance(runner, NativeRunner):
        runner.kernels.serving.exchange(lambda k: replace(k, functions=tuple(EmptyFunction() for _ in k.functions)))
        return
    assert isinstance(runner, TritonRunner)
    for key, plan in list(runner.plans.items()):
        if isinstance(plan, InterpretedPlan):
            runner.plans[key] = replace(plan, launches=tuple(start_nothing for _ in plan.launches))
        elif isinstance(plan, GpuPlan):
            for launch in plan.launches:
                launch.run = start_nothing


def overhead(case: Case, device: str, calls: int) -> tuple[float, float]:
    """Microseconds a call with an empty kernel, and of the same function as a graph that does nothing."""
    inputs = case.inputs(device)
    with nothing_compiled(), torch.no_grad():
        compiled, backend = attir_compiled(case)
        result = compiled(*inputs)
        for site in backend.compiled.values():
            empty(site.runner)

        def answer(*_: object) -> tuple[torch.Tensor]:
            return (result,)

        def backend_of_nothing(*_: object) -> Callable[..., tuple[torch.Tensor]]:
            return answer

        nothing = torch_compile(case.plain, backend=backend_of_nothing)
        nothing(*inputs)
        return _microseconds(lambda: compiled(*inputs), calls), _microseconds(lambda: nothing(*inputs), calls)


def _microseconds(call: Callable[[], object], calls: int) -> float:
    for _ in range(calls // 10):
        call()
    started = time.perf_counter()
    for _ in range(calls):
        call()
    return 1e6 * (time.perf_counter() - started) / calls


def measure_attir(case: Case, device: str, times: Times) -> torch.Tensor:
    first, again, result = first_and_second(lambda: attir_compiled(case)[0], case.inputs(device))
    times.attir.append(first)
    times.attir_again.append(again)
    return result


def measure_flex(case: Case, device: str, times: Times) -> torch.Tensor:
    plain = case.flex(device)

    def function(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return plain(q, k, v)

    first, again, result = first_and_second(lambda: torch_compile(function), case.inputs(device))
    times.flex.append(first)
    times.flex_again.append(again)
    return result


def check_agreement(case: Case, ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Fail unless both computed the same attention: each within rounding of it."""
    difference = (ours - theirs).abs().max().item()
    if difference > 1e-5:
        raise SystemExit(f"{case.name}: attir and FlexAttention differ by {difference:.1e}")


def measure(cases: Sequence[Case], rounds: int, calls: int, device: str) -> dict[str, Times]:
    """All times, by turns; a first round warms the process up and does not count."""
    results = {case.name: Times() for case in cases}
    for number in range(rounds + 1):
        for case in cases if number else cases[:1]:
            print(f"round {number} of {rounds}: {case.name}", file=sys.stderr)
            times = results[case.name] if number else Times()
            ours, theirs = measure_attir(case, device, times), measure_flex(case, device, times)
            check_agreement(case, ours, theirs)
            call, floor = overhead(case, device, calls)
            times.call.append(call)
            times.floor.append(floor)
    return results


def versions() -> dict[str, str]:
    packages = ("attir", "torch", "triton", "numpy")
    return {"python": platform.python_version()} | {p: importlib.metadata.version(p) for p in packages}


def device_name(device: str) -> str:
    if device != "cpu":
        return cast(Any, torch.cuda).get_device_name()
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def table(results: Mapping[str, Times], device: str) -> str:
    """The medians as markdown."""
    sizes = f"{BATCH}x{HEADS}x{LENGTH}x{WIDTH} f32"
    lines = [
        f"{sizes} on {device_name(device)}; " + ", ".join(f"{k} {v}" for k, v in versions().items()),
        "",
        "| attention | attir, first result (s) | second call (ms) | Flex, first result (s) | second call (ms) "
        f"| attir / Flex (target {TARGET_RATIO:g}) | overhead a site (µs, target {TARGET_OVERHEAD:g}) |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, times in results.items():
        columns = ((times.attir, 1), (times.attir_again, 1e3), (times.flex, 1), (times.flex_again, 1e3))
        medians = " | ".join(f"{unit * statistics.median(column):.3f}" for column, unit in columns)
        lines.append(f"| {name} | {medians} | {times.ratio:.3f} | {times.overhead:.1f} |")
    return "\n".join(lines)


def as_json(results: Mapping[str, Times], device: str, rounds: int, calls: int) -> str:
    """Every raw time with what it was measured on."""
    record = {
        "benchmark": "compile_time",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "device": device_name(device),
        "versions": versions(),
        "settings": {
            "sizes": [BATCH, HEADS, LENGTH, WIDTH], "dtype": "f32", "rounds": rounds, "calls": calls,
            "target_ratio": TARGET_RATIO, "target_overhead_us": TARGET_OVERHEAD,
        },
        "cases": {
            name: {"ratio": times.ratio, "overhead_us": times.overhead, **asdict(times)}
            for name, times in results.items()
        },
    }  # fmt: skip
    return json.dumps(record, indent=2) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=2000, help="calls for one measurement of the overhead")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="one round of one case")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every raw time there")
    arguments = parser.parse_args(argv)
    cases, rounds = (CASES[:1], 1) if arguments.quick else (CASES, arguments.rounds)
    results = measure(cases, rounds, arguments.calls, arguments.device)
    print(table(results, arguments.device))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(as_json(results, arguments.device, rounds, arguments.calls), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
