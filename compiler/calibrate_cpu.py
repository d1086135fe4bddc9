"""Measures how fast this CPU does what kernels consist of, for the cost model; knows nothing of attention but its call.

What is measured is kept in the tuning cache, by the device's fingerprint, and taken for predictions from then on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ..cost_model.cpus import CPUS, DEFAULT_RATES, Cpu, CpuRates, Level, set_rates
from ..ir.diagnostics import CompileError
from .host_cpu import host_target
from .machine_loops import (
    CHAIN,
    CHUNK,
    NativeCall,
    copy_text,
    cycles_text,
    fma_text,
    latency_text,
    native_call,
    nothing_text,
    read_text,
    softmax_text,
    widen_text,
)  # fmt: skip
from .measuring import Timing, measured

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")

RATES = "rates"
"""Under what name calibrations of CPUs lie in the tuning cache."""

SECONDS = 0.35
"""For each group of loops, interleaved."""

STEPS, PASSES, LEAST_BYTES = 300_000, 1000, 1 << 25
"""Of the loops of arithmetic, of those over a chunk, and what loops over memory read at least: some milliseconds."""


@dataclass(frozen=True)
class Calibration:
    """What was measured, and the largest spread (a standard deviation of the logarithm) by rate."""

    rates: CpuRates
    spreads: Mapping[str, float]

    def lines(self) -> Iterator[tuple[str, str]]:
        """Rates in words, for people."""
        rates, spreads = self.rates, self.spreads

        def told(name: str, text: str) -> tuple[str, str]:
            return name, f"{text} (spread {100 * spreads[name]:.1f} %)"

        yield told("clock", f"{1e-9 * rates.clock:.2f} GHz")
        lanes = CPUS[rates.name].lanes
        yield told("fma", f"{1e-9 * rates.flops:.0f} GFLOP/s, {rates.fma:.2f} vectors of {lanes} a cycle")
        yield told("latency", f"{rates.latency:.1f} cycles of a multiply-add")
        for name, level in zip(("L1", "L2", "L3", "memory"), rates.levels, strict=True):
            size = "" if level.bytes == math.inf else f"{level.bytes / 1024:.0f} KiB, "
            text = f"{size}reads {1e-9 * level.read:.1f} GB/s, copies {1e-9 * level.copy:.1f} GB/s"
            yield told(name, text)
        yield told("exponentials", f"{1e-9 * rates.exponentials:.2f} G/s in a softmax of f32")
        yield told("widened_f16", f"{1e-9 * rates.widened_f16:.1f} G/s to f32")
        yield told("widened_bf16", f"{1e-9 * rates.widened_bf16:.1f} G/s to f32")
        yield told("program", f"{1e9 * rates.program:.0f} ns")
        yield told("thread", f"{1e6 * rates.thread:.1f} us to wake and wait for {rates.threads} threads")
        yield told("call", f"{1e6 * rates.call:.1f} us of Python and PyTorch around a kernel")

    def values(self) -> dict[str, Any]:
        """As the cache keeps it."""
        return {**as_values(self.rates), "spreads": dict(self.spreads)}


def calibrate(seconds: float = SECONDS) -> Calibration:
    """Measure this CPU, in about ten times `seconds`; CompileError where it runs no native kernels."""
    cpu = CPUS[host_target()]
    found, spreads = _arithmetic(cpu, seconds)
    sizes = cache_sizes()
    levels = [_level(cpu, size, place, seconds) for place, size in enumerate((*sizes, math.inf))]
    for name, (_, spread) in zip(("L1", "L2", "L3", "memory"), levels, strict=True):
        spreads[name] = spread
    for name, (value, spread) in _overheads(cpu, seconds).items():
        found[name], spreads[name] = value, spread
    threads = torch.get_num_threads()
    first, second, third, last = (level for level, _ in levels)
    loads = first.read / (4 * cpu.lanes * found["clock"])
    rates = CpuRates(cpu.name, **found, loads=loads, levels=(first, second, third, last), threads=threads)
    return Calibration(rates, spreads)


def keep(calibration: Calibration) -> str:
    """Put a calibration into the tuning cache and take it for predictions; where it lies now, or why it does not."""
    from .tuning_cache import device_fingerprint, tuning_cache

    set_rates(calibration.rates.name, calibration.rates)
    cache = tuning_cache()
    cache.keep_calibration(device_fingerprint(calibration.rates.name), RATES, calibration.values())
    return cache.problem or "kept in the tuning cache"


def calibrated_rates(target: str) -> CpuRates | None:
    """What was measured of the CPU `target` on this machine; None where that is not known."""
    from .tuning_cache import device_fingerprint, tuning_cache

    found = tuning_cache().calibration(device_fingerprint(target), RATES).found
    return None if found is None or target not in CPUS else from_values(target, found)


def use_calibration(target: str) -> bool:
    """Take what was measured of the CPU `target` for predictions from now on; whether there is anything."""
    rates = calibrated_rates(target)
    if rates is not None:
        set_rates(target, rates)
    return rates is not None


@cache
def use_kept_rates() -> None:
    """Take what was measured of this CPU earlier, if anything, for predictions; asked for once in a process."""
    with suppress(CompileError):  # no CPU that kernels are made for
        use_calibration(host_target())


def as_values(rates: CpuRates) -> dict[str, Any]:
    """Rates as plain numbers and lists; no cache of unlimited size."""
    levels = [[0 if level.bytes == math.inf else level.bytes, level.read, level.copy] for level in rates.levels]
    return {**vars(rates), "levels": levels}


def from_values(target: str, values: Mapping[str, Any]) -> CpuRates | None:
    """The rates that `as_values` made numbers of; None where some are missing or make no sense."""
    names = [name for name in vars(DEFAULT_RATES[target]) if name not in ("name", "levels", "threads")]
    try:
        if values["name"] != target:
            return None
        first, second, third, last = (Level(*map(float, level)) for level in values["levels"])
        rates = {name: float(values[name]) for name in names}
        figures = (*rates.values(), *(x for y in (first, second, third, last) for x in (y.read, y.copy)))
        if not all(math.isfinite(x) and x > 0 for x in (*figures, first.bytes, second.bytes, third.bytes)):
            return None
        levels = first, second, third, replace(last, bytes=math.inf)
        return CpuRates(target, **rates, levels=levels, threads=max(1, int(values["threads"])))
    except (KeyError, TypeError, ValueError):
        return None


def cache_sizes() -> tuple[int, int, int]:
    """Bytes of the data caches that the first processor reaches: L1, L2, L3; the usual ones where nobody says."""
    sizes = {1: 32 << 10, 2: 1 << 20, 3: 32 << 20}
    for folder in CACHES.glob("index*"):
        try:
            level, kind, text = (
                (folder / name).read_text(encoding="ascii").strip() for name in ("level", "type", "size")
            )
            if kind != "Instruction" and int(level) in sizes:
                sizes[int(level)] = int(text[:-1]) << {"K": 10, "M": 20, "G": 30}[text[-1]]
        except (OSError, ValueError, KeyError, IndexError):
            continue
    return sizes[1], sizes[2], max(sizes[2] + 1, sizes[3])


def last_level_cache() -> int:
    """Bytes of the largest cache that the first processor reaches."""
    return max(cache_sizes())


def beyond_caches() -> int:
    """Bytes of a working set that the caches hold little of."""
    return min(1 << 30, max(64 << 20, 4 * last_level_cache()))


def _times(calls: Mapping[str, Callable[[], object]], seconds: float, threads: int = 1) -> Mapping[str, Timing]:
    return measured(calls, reference=None, seconds=seconds, threads=threads)


def _arithmetic(cpu: Cpu, seconds: float) -> tuple[dict[str, float], dict[str, float]]:
    """The rates of arithmetic, and their spreads."""
    half, numbers = torch.full((4 * cpu.lanes,), 0.5), torch.tensor([3, 5, 0])
    powers, sums = torch.empty(CHUNK // 4), torch.zeros(cpu.lanes)
    random = torch.rand(CHUNK // 4)
    text, flops = fma_text(cpu)
    over = {"exponentials": (softmax_text(cpu), random)}
    for element, dtype in (("f16", torch.float16), ("bf16", torch.bfloat16)):
        over[f"widened_{element}"] = widen_text(cpu, element), random.to(dtype)
    calls = {
        "clock": native_call(cycles_text(cpu), 1, (STEPS,), numbers),
        "fma": native_call(text, 1, (STEPS,), half),
        "latency": native_call(latency_text(cpu), 1, (STEPS // CHAIN,), half),
        **{name: native_call(t, 1, (PASSES,), source, powers, sums) for name, (t, source) in over.items()},
    }
    times = _times(calls, 3 * seconds)
    clock = 2 * CHAIN * STEPS / times["clock"].seconds
    found = {
        "clock": clock,
        "fma": flops * STEPS / (2 * cpu.lanes) / times["fma"].seconds / clock,
        "latency": times["latency"].seconds * clock / (STEPS // CHAIN * CHAIN),
        **{name: PASSES * CHUNK / 4 / times[name].seconds for name in over},
    }
    return found, {name: times[name].spread for name in found}


def _level(cpu: Cpu, size: float, place: int, seconds: float) -> tuple[Level, float]:
    """What one core reads and copies a second of a working set that fills half of a cache; the larger spread."""
    wanted = beyond_caches() if size == math.inf else size / 2
    chunks = max(1, int(wanted) // CHUNK)
    buffer, sums = torch.ones(chunks * CHUNK // 4), torch.zeros(chunks * cpu.lanes)
    half = max(1, chunks // 2)
    # A working set in L1 is one chunk; a copy there has another one.
    target = torch.empty(half * CHUNK // 4)
    rounds = {n: max(n, LEAST_BYTES // CHUNK) for n in (chunks, half)}
    calls: dict[str, NativeCall] = {
        "read": native_call(read_text(cpu), 1, (rounds[chunks], chunks), buffer, sums),
        "read ahead": native_call(read_text(cpu, prefetch=True), 1, (rounds[chunks], chunks), buffer, sums),
        "copy": native_call(copy_text(cpu), 1, (rounds[half], half), buffer, target),
    }
    times = _times(calls, seconds * (2 if place == 3 else 1))
    best = min((times[name] for name in ("read", "read ahead")), key=lambda timing: timing.seconds)
    read, copy = rounds[chunks] * CHUNK / best.seconds, rounds[half] * CHUNK / times["copy"].seconds
    return Level(size, read, copy), max(best.spread, times["copy"].spread)


def _overheads(cpu: Cpu, seconds: float) -> dict[str, tuple[float, float]]:
    """Seconds of a program's start, of waking all threads, and of a call, with their spreads."""
    programs, threads = 10_000, torch.get_num_threads()
    alone = {"program": native_call(nothing_text(cpu), 1, (programs,)), "call": _small_call(cpu)}
    times = _times(alone, seconds)
    # Threads are not there at the first call, and wait for the next one for some time.
    woken = _times({"thread": native_call(nothing_text(cpu), threads, (threads,))}, seconds, threads)["thread"]
    return {
        "program": (times["program"].seconds / programs, times["program"].spread),
        "thread": (woken.seconds, woken.spread),
        "call": (times["call"].seconds, times["call"].spread),
    }


def _small_call(cpu: Cpu) -> Callable[[], object]:
    """Attention of one query and one key, which takes no time itself."""
    from .attention_cases import Case
    from .native_kernels import native_kernels
    from .native_runtime import NativeRunner

    run = NativeRunner(native_kernels(Case(width=cpu.lanes).module(), cpu.name))
    x = torch.zeros(1, 1, 1, cpu.lanes, dtype=torch.float16)
    return lambda: run(x, x, x, (), True)
