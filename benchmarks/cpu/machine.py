"""What the CPU can do at best: multiply-adds and bytes read a second, by native kernels; and its description."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from attir.compiler.calibrate_cpu import beyond_caches, last_level_cache
from attir.compiler.host_cpu import host_name, host_target, processor
from attir.compiler.machine_loops import CHUNK, NativeCall, fma_text, native_call, read_text
from attir.cost_model.cpus import CPUS

from .measuring import Call, interleaved

STEPS = 1_000_000  # of the loop of multiply-adds, some ten milliseconds


def description() -> dict[str, Any]:
    """The machine and the versions, for the record."""
    packages = ("attir", "torch", "torch-mlir", "transformers", "numpy")
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cpu": f"{host_name()}, family {processor().get('cpu family', '?')} model {processor().get('model', '?')}",
        "target": host_target(),
        "logical cpus": os.cpu_count(),
        "last-level cache": last_level_cache(),
        "system": f"{platform.system()} {platform.release()}",
        "versions": {"python": platform.python_version()} | {p: importlib.metadata.version(p) for p in packages},
    }


@dataclass(frozen=True)
class Peak:
    """The most multiply-adds that `threads` threads do."""

    threads: int

    @cached_property
    def call(self) -> NativeCall:
        return native_call(fma_text(CPUS[host_target()])[0], self.threads, (STEPS,), torch.full((64,), 0.5))

    @property
    def flops(self) -> float:
        """Of one call."""
        return float(fma_text(CPUS[host_target()])[1] * STEPS * self.threads)


@dataclass(frozen=True)
class Reading:
    """The fastest way found to read memory with `threads` threads."""

    threads: int

    @cached_property
    def buffer(self) -> torch.Tensor:
        return torch.ones(beyond_caches() // 4)

    @cached_property
    def ways(self) -> Mapping[str, Call]:
        """Two native sums and PyTorch's, of the buffer."""
        cpu, chunks = CPUS[host_target()], self.buffer.nbytes // CHUNK
        sums = torch.zeros(chunks * cpu.lanes)
        native = {
            name: native_call(read_text(cpu, prefetch=prefetch), self.threads, (chunks, chunks), self.buffer, sums)
            for name, prefetch in (("native sum", False), ("native sum, prefetching", True))
        }
        return {**native, "torch.sum": self.buffer.sum}

    @cached_property
    def speeds(self) -> Mapping[str, float]:
        """GB/s of every way."""
        times = interleaved(self.ways, self.threads, 1.0)
        return {name: 1e-9 * self.buffer.nbytes / times.median(name) for name in times.seconds}

    @property
    def best(self) -> Call:
        """The way that is fastest at the median."""
        return self.ways[max(self.speeds, key=lambda way: self.speeds[way])]
