"""Native loops that each do one thing a CPU is limited by: multiply-adds, reading, copying, powers, conversions.

Written as kernels are, so that what LLVM makes of them is what it makes of a kernel's parts.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..codegen.mlir.emit import ATTRIBUTES
from ..codegen.mlir.exponentials import exp2_scaled
from ..codegen.mlir.memory import read, stored_as
from ..codegen.mlir.writer import POINTER, Ssa, Writer, vector
from ..cost_model.cpus import Cpu
from .native_cache import load_kernels

if TYPE_CHECKING:
    import torch

    from .native_kernels import Function

CHUNK = 1 << 14
"""Bytes that a thread reads or copies at a time: less than any first cache holds."""

AHEAD = 4096
"""Bytes between what is read and what is fetched."""

AT_ONCE = 8
"""Vectors of one step of the loops over memory."""

CHAIN = 16
"""Links of a chain in one step of its loop."""

Arguments = Sequence[Ssa]
Carried = list[Ssa]


def function_text(name: str, cpu: Cpu, count: int, body: Callable[[Writer, Arguments], None]) -> str:
    """`void name(int64_t *)` whose words behind the work counter are `count` numbers, for `body` to use."""
    w, place = Writer(), Ssa("%arguments", POINTER)
    body(w, [w.load(w.at(place, i, "i64"), "i64") for i in range(1, 1 + count)])
    head = f"func.func @{name}(%arguments: !llvm.ptr) attributes {{passthrough = {ATTRIBUTES[cpu.lanes]}}} {{"
    return "\n".join([head, *w.head, *w.lines, "    return", "}", ""])


def fma_text(cpu: Cpu) -> tuple[str, int]:
    """A loop of independent multiply-adds of whole vectors, and its floating-point operations a step.

    Arguments: steps, address of a vector of 0.5 and of room for the result behind it.
    """
    count = cpu.vector_registers * 3 // 4

    def body(w: Writer, arguments: Arguments) -> None:
        _fma_loop(w, cpu, arguments, count)

    return function_text("multiply_adds", cpu, 2, body), 2 * count * cpu.lanes


def latency_text(cpu: Cpu) -> str:
    """One multiply-add after the other, `CHAIN` a step; arguments as those of `fma_text`."""
    return function_text("chained_multiply_adds", cpu, 2, lambda w, arguments: _fma_loop(w, cpu, arguments, 1, CHAIN))


def _fma_loop(w: Writer, cpu: Cpu, arguments: Arguments, count: int, chain: int = 1) -> None:
    steps, address = arguments
    place, type_ = _pointer(w, address), vector("f32", cpu.lanes)
    x = w.load(place, type_)
    starts = [w.constant(i + 0.5, type_) for i in range(count)]

    def step(_: Ssa, sums: Carried) -> Carried:
        for _link in range(chain):
            sums = [w.fma(total, x, x) for total in sums]
        return sums

    w.store(_sum(w, w.loop(w.index(0), steps, w.index(1), starts, step)), w.at(place, cpu.lanes, "f32"))


def cycles_text(cpu: Cpu) -> str:
    """Additions and exclusive ors of one number, one after the other, each a cycle: 2 `CHAIN` a step.

    Arguments: steps, address of two numbers and of room for the result behind them.
    """

    def body(w: Writer, arguments: Arguments) -> None:
        steps, address = arguments
        place = _pointer(w, address)
        x, y = (w.load(w.at(place, i, "i64"), "i64") for i in range(2))

        def step(_: Ssa, number: Carried) -> Carried:
            (n,) = number
            for _link in range(CHAIN):
                n = w.binary("arith.xori", w.add(n, x), y)
            return [n]

        w.store(w.loop(w.index(0), steps, w.index(1), [w.index(1)], step)[0], w.at(place, 2, "i64"))

    return function_text("cycles", cpu, 2, body)


def read_text(cpu: Cpu, *, prefetch: bool = False) -> str:
    """The sum of a buffer in chunks that threads take from the counter, again from its start where it ends.

    Arguments: chunks to read, chunks of the buffer, its address, address for a sum of each of its chunks.
    """

    def body(w: Writer, arguments: Arguments) -> None:
        total, there, source, sums = arguments
        type_, width = vector("f32", cpu.lanes), 4 * cpu.lanes

        def chunk(number: Ssa) -> None:
            number = w.binary("arith.remui", number, there)
            first = w.add(source, w.mul(number, w.index(CHUNK)))

            def step(position: Ssa, before: Carried) -> Carried:
                place = _pointer(w, w.add(first, position))
                for byte in range(0, AT_ONCE * width, 64) if prefetch else ():
                    _fetch(w, w.at(place, AHEAD + byte, "i8"))
                return [w.add(x, w.load(w.at(place, i * width, "i8"), type_)) for i, x in enumerate(before)]

            none = [w.constant(0.0, type_)] * AT_ONCE
            found = w.loop(w.index(0), w.index(CHUNK), w.index(AT_ONCE * width), none, step)
            w.store(_sum(w, found), _pointer(w, w.add(sums, w.mul(number, w.index(width)))))

        _each_chunk(w, total, chunk)

    return function_text("read_ahead" if prefetch else "read", cpu, 4, body)


def copy_text(cpu: Cpu) -> str:
    """A buffer to another, in chunks as `read_text` has them.

    Arguments: chunks to copy, chunks of the buffer, addresses of both.
    """

    def body(w: Writer, arguments: Arguments) -> None:
        total, there, source, target = arguments
        type_, width = vector("f32", cpu.lanes), 4 * cpu.lanes

        def chunk(number: Ssa) -> None:
            offset = w.mul(w.binary("arith.remui", number, there), w.index(CHUNK))
            places = w.add(source, offset), w.add(target, offset)

            def step(position: Ssa, _: Carried) -> Carried:
                read_from, to = (_pointer(w, w.add(place, position)) for place in places)
                found = [w.load(w.at(read_from, i * width, "i8"), type_) for i in range(AT_ONCE)]
                for i, x in enumerate(found):
                    w.store(x, w.at(to, i * width, "i8"))
                return []

            w.loop(w.index(0), w.index(CHUNK), w.index(AT_ONCE * width), (), step)

        _each_chunk(w, total, chunk)

    return function_text("copy", cpu, 4, body)


def softmax_text(cpu: Cpu) -> str:
    """2^(x - c) of each number of a chunk and the sum of all, as a softmax takes them.

    Arguments: passes, address of the chunk, address for the powers, address for the sum.
    """

    def change(w: Writer, x: Ssa) -> Ssa:
        return exp2_scaled(w, w.sub(x, w.constant(1.0, x.type)), 1.0)

    return _pass_text("softmax", cpu, "f32", change)


def widen_text(cpu: Cpu, element: str) -> str:
    """Each number of a chunk of "f16" or "bf16" as f32; arguments as those of `softmax_text`."""
    return _pass_text(f"widen_{element}", cpu, element, None)


def _pass_text(name: str, cpu: Cpu, element: str, change: Callable[[Writer, Ssa], Ssa] | None) -> str:
    """Passes over `CHUNK` / 4 numbers of `element` that are stored as f32, two vectors a step."""

    def body(w: Writer, arguments: Arguments) -> None:
        passes, source, target, sums = arguments
        read_from, to, lanes, memory = _pointer(w, source), _pointer(w, target), cpu.lanes, stored_as(element)
        none = w.constant(0.0, vector("f32", lanes))

        def once(_: Ssa, before: Carried) -> Carried:
            def step(position: Ssa, totals: Carried) -> Carried:
                after: Carried = []
                for i, total in enumerate(totals):
                    place = w.add(position, w.index(i * lanes))
                    x = read(w, w.at(read_from, place, memory), element, lanes)
                    x = x if change is None else change(w, x)
                    w.store(x, w.at(to, place, "f32"))
                    after.append(total if change is None else w.add(total, x))
                return after

            return w.loop(w.index(0), w.index(CHUNK // 4), w.index(2 * lanes), before, step)

        w.store(_sum(w, w.loop(w.index(0), passes, w.index(1), [none, none], once)), _pointer(w, sums))

    return function_text(name, cpu, 4, body)


def nothing_text(cpu: Cpu) -> str:
    """Programs that do nothing. Arguments: how many."""
    return function_text("nothing", cpu, 1, lambda w, arguments: _each_chunk(w, arguments[0], lambda _: None))


def _each_chunk(w: Writer, total: Ssa, body: Callable[[Ssa], None]) -> None:
    """`body` for each number below `total` that this thread takes from the work counter."""
    number, left, one = w.fresh("number"), w.fresh("left"), w.index(1)
    w.line("scf.while : () -> () {")
    with w.indented():
        w.line(f"{number} = llvm.atomicrmw add %arguments, {one.name} monotonic : {POINTER}, i64")
        w.line(f"{left} = arith.cmpi slt, {number}, {total.name} : i64")
        with w.when(Ssa(left, "i1")):
            body(Ssa(number, "i64"))
        w.line(f"scf.condition({left})")
    w.line("} do {")
    w.line("  scf.yield")
    w.line("}")


def _pointer(w: Writer, address: Ssa) -> Ssa:
    return w.op(f"llvm.inttoptr {address.name} : i64 to {POINTER}", POINTER)


def _fetch(w: Writer, place: Ssa) -> None:
    w.line(
        f'"llvm.intr.prefetch"({place.name}) <{{cache = 1 : i32, hint = 2 : i32, rw = 0 : i32}}> : ({POINTER}) -> ()'
    )


def _sum(w: Writer, parts: Sequence[Ssa]) -> Ssa:
    total = parts[0]
    for part in parts[1:]:
        total = w.add(total, part)
    return total


@dataclass(frozen=True)
class NativeCall:
    """A native function and its arguments; the first is the work counter, set to 0 before each call."""

    function: Function
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
