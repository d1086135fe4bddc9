"""What the CPU can do at best: multiply-adds and bytes read a second, by native kernels; and its description."""

from __future__ import annotations

import ctypes
import datetime
import importlib.metadata
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from attir.codegen.mlir.emit import ATTRIBUTES
from attir.compiler.host_cpu import host_name, host_target, processor
from attir.compiler.native_cache import load_kernels
from attir.cost_model.cpus import CPUS

from .measuring import Call, interleaved

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
STEPS = 1_000_000  # of the loop of multiply-adds, some ten milliseconds
CHUNK = 1 << 16  # bytes that a thread reads at a time
AHEAD = 4096  # bytes between what is read and what is fetched


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


def last_level_cache() -> int:
    """Bytes of the largest cache that the first processor reaches; 32 MiB where the system does not say."""
    sizes = [32 << 20 if not CACHES.is_dir() else 0]
    for file in CACHES.glob("index*/size"):
        text = file.read_text().strip()
        sizes.append(int(text[:-1]) << {"K": 10, "M": 20, "G": 30}[text[-1]])
    return max(sizes)


def beyond_caches() -> int:
    """Bytes of a working set that the caches hold little of."""
    return min(1 << 30, max(64 << 20, 4 * last_level_cache()))


def fma_text() -> tuple[str, int]:
    """A loop of independent multiply-adds of whole vectors, and its operations a step.

    Arguments: work counter (not used), steps, address of a vector of 0.5 and of room for the result behind it.
    """
    cpu = CPUS[host_target()]
    count = cpu.vector_registers * 3 // 4
    vector = f"vector<{cpu.lanes}xf32>"
    numbers = range(count)
    starts = "\n".join(f"  %s{i} = arith.constant dense<{i}.5> : {vector}" for i in numbers)
    carried = ", ".join(f"%a{i} = %s{i}" for i in numbers)
    types = ", ".join([vector] * count)
    body = "\n".join(f"    %b{i} = math.fma %a{i}, %x, %x : {vector}" for i in numbers)
    results = ", ".join(f"%b{i}" for i in numbers)
    total = "\n".join(f"  %t{i + 1} = arith.addf %t{i}, %r#{i} : {vector}" for i in numbers)
    text = f"""func.func @multiply_adds(%arguments: !llvm.ptr) attributes {{passthrough = {ATTRIBUTES[cpu.lanes]}}} {{
  %zero = arith.constant 0 : i64
  %one = arith.constant 1 : i64
  %steps_at = llvm.getelementptr %arguments[1] : (!llvm.ptr) -> !llvm.ptr, i64
  %steps = llvm.load %steps_at : !llvm.ptr -> i64
  %address_at = llvm.getelementptr %arguments[2] : (!llvm.ptr) -> !llvm.ptr, i64
  %address = llvm.load %address_at : !llvm.ptr -> i64
  %p = llvm.inttoptr %address : i64 to !llvm.ptr
  %x = llvm.load %p {{alignment = 4 : i64}} : !llvm.ptr -> {vector}
{starts}
  %r:{count} = scf.for %i = %zero to %steps step %one iter_args({carried}) -> ({types}) : i64 {{
{body}
    scf.yield {results} : {types}
  }}
  %t0 = arith.constant dense<0.0> : {vector}
{total}
  %behind = llvm.getelementptr %p[{cpu.lanes}] : (!llvm.ptr) -> !llvm.ptr, f32
  llvm.store %t{count}, %behind {{alignment = 4 : i64}} : {vector}, !llvm.ptr
  return
}}
"""
    return text, 2 * count * cpu.lanes


def read_text(prefetch: bool) -> str:
    """The sum of a buffer, 8 vectors a step, in chunks that threads take from the counter.

    Arguments: work counter, chunks, address of the buffer, address for a sum a chunk.
    """
    lanes = CPUS[host_target()].lanes
    vector, width = f"vector<{lanes}xf32>", 4 * lanes
    numbers = range(8)
    zeros = ", ".join(f"%a{i} = %none" for i in numbers)
    types = ", ".join([vector] * len(numbers))
    body = "\n".join(
        f"""        %p{i} = llvm.getelementptr %place[{i * width}] : (!llvm.ptr) -> !llvm.ptr, i8
        %x{i} = llvm.load %p{i} {{alignment = 4 : i64}} : !llvm.ptr -> {vector}
        %b{i} = arith.addf %a{i}, %x{i} : {vector}"""
        for i in numbers
    )
    fetch = "\n".join(
        f"""        %f{at} = llvm.getelementptr %place[{AHEAD + at}] : (!llvm.ptr) -> !llvm.ptr, i8
        "llvm.intr.prefetch"(%f{at}) <{{cache = 1 : i32, hint = 2 : i32, rw = 0 : i32}}> : (!llvm.ptr) -> ()"""
        for at in range(0, len(numbers) * width, 64)
    )
    total = "\n".join(f"      %t{i + 1} = arith.addf %t{i}, %r#{i} : {vector}" for i in numbers)
    name = "read_ahead" if prefetch else "read"
    return f"""func.func @{name}(%arguments: !llvm.ptr) attributes {{passthrough = {ATTRIBUTES[lanes]}}} {{
  %zero = arith.constant 0 : i64
  %one = arith.constant 1 : i64
  %step = arith.constant {len(numbers) * width} : i64
  %size = arith.constant {CHUNK} : i64
  %slot = arith.constant {width} : i64
  %none = arith.constant dense<0.0> : {vector}
  %chunks_at = llvm.getelementptr %arguments[1] : (!llvm.ptr) -> !llvm.ptr, i64
  %chunks = llvm.load %chunks_at : !llvm.ptr -> i64
  %source_at = llvm.getelementptr %arguments[2] : (!llvm.ptr) -> !llvm.ptr, i64
  %source = llvm.load %source_at : !llvm.ptr -> i64
  %sums_at = llvm.getelementptr %arguments[3] : (!llvm.ptr) -> !llvm.ptr, i64
  %sums = llvm.load %sums_at : !llvm.ptr -> i64
  scf.while : () -> () {{
    %chunk = llvm.atomicrmw add %arguments, %one monotonic : !llvm.ptr, i64
    %left = arith.cmpi slt, %chunk, %chunks : i64
    scf.if %left {{
      %offset = arith.muli %chunk, %size : i64
      %first = arith.addi %source, %offset : i64
      %r:{len(numbers)} = scf.for %i = %zero to %size step %step iter_args({zeros}) -> ({types}) : i64 {{
        %address = arith.addi %first, %i : i64
        %place = llvm.inttoptr %address : i64 to !llvm.ptr
{fetch if prefetch else ""}
{body}
        scf.yield {", ".join(f"%b{i}" for i in numbers)} : {types}
      }}
      %t0 = arith.constant dense<0.0> : {vector}
{total}
      %away = arith.muli %chunk, %slot : i64
      %to = arith.addi %sums, %away : i64
      %result = llvm.inttoptr %to : i64 to !llvm.ptr
      llvm.store %t{len(numbers)}, %result {{alignment = 4 : i64}} : {vector}, !llvm.ptr
    }}
    scf.condition(%left)
  }} do {{
    scf.yield
  }}
  return
}}
"""


@dataclass(frozen=True)
class NativeCall:
    """A native function and its arguments; the first is the work counter, set to 0 before each call."""

    function: Any
    arguments: ctypes.Array[ctypes.c_int64]
    threads: int
    keep: tuple[torch.Tensor, ...]

    def __call__(self) -> None:
        self.arguments[0] = 0
        self.function.run(ctypes.addressof(self.arguments), self.threads)


def native_call(text: str, threads: int, values: tuple[int, ...], *keep: torch.Tensor) -> NativeCall:
    """The one function of `text`, on `values` and then the addresses of `keep`."""
    (function,) = load_kernels(text).functions.values()
    words = (0, *values, *(t.data_ptr() for t in keep))
    return NativeCall(function, (ctypes.c_int64 * len(words))(*words), threads, keep)


@dataclass(frozen=True)
class Peak:
    """The most multiply-adds that `threads` threads do."""

    threads: int

    @cached_property
    def call(self) -> NativeCall:
        return native_call(fma_text()[0], self.threads, (STEPS,), torch.full((64,), 0.5))

    @property
    def flops(self) -> float:
        """Of one call."""
        return float(fma_text()[1] * STEPS * self.threads)


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
        lanes = CPUS[host_target()].lanes
        chunks = self.buffer.nbytes // CHUNK
        sums = torch.zeros(chunks * lanes)
        native = {
            name: native_call(read_text(prefetch), self.threads, (chunks,), self.buffer, sums)
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
