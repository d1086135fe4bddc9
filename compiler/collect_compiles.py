"""Compiles many attention kernels offline and writes down what the compiler made of each: data for the cost model.

    python -m attir.compiler.collect_compiles --target sm_90 --count 1000 --out FILE.jsonl.gz [--part 0/2]

The kernels are the first of a sample that is the same everywhere (`compile_sample`). A run that was stopped goes on
where it was. Seconds are of the processor, not of the clock, so that a busy machine changes nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import resource
import select
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

from ..codegen.triton import emit_kernel
from ..cost_model.dataset import COMPILES, CompileRecord, Header, Writer, pack, record_of, record_value
from ..cost_model.devices import device_named
from ..cost_model.resources import AttentionShape, shared_memory
from ..ir.attributes import f16
from ..ir.diagnostics import CompileError
from ..ir.printer import print_operation
from .attention_cases import Case
from .compile_sample import Configuration, Tiles, configurations, lowered, shape_of
from .sass import MATRIX_OPCODES, SPILL_OPCODES, Loop, SassReport, disassemble
from .triton_compile import TensorForm, compile_kernel, triton_target

TARGETS = ("sm_80", "sm_90")

TIMEOUT = "timeout"
"""Why a kernel failed whose compiler took too long."""

HASH_DIGITS = 16
"""Of the SHA-256 of a kernel in tile IR."""

CPU_SECONDS = 60
"""Of the processor, after which one compiler is stopped and its kernel recorded as "timeout"."""

WAITED_SECONDS = 900
"""After which a process that uses no processor is given up."""

WARM = Configuration("sm_80", Case(f16, 32, 32), 0, Tiles(32, 32, 4, 1))
"""A kernel that every compiler makes at once."""

CLASSES: Mapping[str, tuple[str, ...]] = {
    "matrix": MATRIX_OPCODES,
    "spill": SPILL_OPCODES,
    "special": ("MUFU",),
    "float": ("FADD", "FMUL", "FFMA", "FMNMX", "FSEL", "FSETP", "FCHK", "FMNMX3", "FSET", "HADD2", "HMUL2", "HFMA2"),
    "convert": ("F2F", "F2FP", "F2I", "I2F", "I2FP", "PRMT", "FRND"),
    "shared": ("LDS", "STS", "LDSM", "STSM", "ATOMS"),
    "global": ("LDG", "STG", "LDGSTS", "LD", "ST", "UTMALDG", "UTMASTG", "UTMAPF", "LDC", "ULDC", "LDCU"),
    "exchange": ("SHFL", "VOTE", "MATCH", "REDUX"),
    "wait": ("BAR", "SYNCS", "DEPBAR", "LDGDEPBAR", "WARPGROUP", "WARPSYNC", "MEMBAR", "FENCE", "ARRIVES", "UCGABAR"),
    "control": ("BRA", "BSSY", "BSYNC", "EXIT", "CALL", "RET", "NOP", "BREAK", "YIELD"),
}
"""Machine instructions by what they keep busy; all others are "integer"."""


def compiled_record(configuration: Configuration) -> CompileRecord:
    """What the installed Triton makes of a configuration; `failed` says in words what went wrong, if anything did."""
    empty = not_compiled(configuration, "")
    device = device_named(configuration.target)
    try:
        written, planned = lowered(configuration)
        kernel = emit_kernel(written)
        text = print_operation(written)
        forms = [
            TensorForm.contiguous(type_, any_length=False, by_column=i in kernel.by_column)
            for i, type_ in enumerate(kernel.tensors)
        ]
        start = _cpu_seconds()
        compiled = compile_kernel(kernel, forms, triton_target(configuration.target))
        seconds = _cpu_seconds() - start
        report = disassemble(compiled.asm["cubin"])
    except CompileError as problem:
        said = str(problem).strip()
        return replace(empty, failed=TIMEOUT if _killed(said) else said)
    shared = int(compiled.metadata.shared)
    over = f"needs {shared} B of shared memory, {device.name} has {device.shared_memory}"
    return replace(
        with_report(empty, report),
        schedule=planned,
        shared=shared,
        compile_seconds=seconds,
        ir=hashlib.sha256(text.encode()).hexdigest()[:HASH_DIGITS],
        failed=over if shared > device.shared_memory else "",
    )


def not_compiled(configuration: Configuration, failed: str) -> CompileRecord:
    """The record of a kernel of which nothing is known but why."""
    shape = shape_of(configuration)
    told = {f.name: (getattr(shape, f.name), f.default) for f in fields(AttentionShape)}
    return CompileRecord(
        configuration.family, configuration.fields, configuration.target, version("triton"), configuration.rows,
        configuration.schedule, 0, 0, 0, 0, (), {}, 0.0, failed,
        predicted=shared_memory(configuration.config, shape, device_named(configuration.target)),
        shape={name: value for name, (value, default) in told.items() if value != default},
    )  # fmt: skip


def with_report(record: CompileRecord, report: SassReport) -> CompileRecord:
    """The record with registers, spills, loops, and the instructions of the loop that has most tensor-core ones."""
    main = max(report.loops, key=lambda loop: (loop.matrix_instructions, len(loop)), default=None)
    return replace(
        record,
        registers=report.registers,
        stack=report.stack,
        spills=report.spills,
        loop_spills=report.loop_spills,
        length=len(report.instructions),
        loops=tuple(len(loop) for loop in report.loops),
        instructions=_mix(main) if main is not None else {},
    )


def _mix(loop: Loop) -> dict[str, int]:
    classes = {opcode: name for name, opcodes in CLASSES.items() for opcode in opcodes}
    counts: Counter[str] = Counter()
    for opcode, count in loop.opcodes.items():
        counts[classes.get(opcode, "integer")] += count
    return dict(sorted(counts.items()))


def _cpu_seconds() -> float:
    """Of this process and of those it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _killed(said: str) -> bool:
    """Whether Triton tells of an assembler that was stopped."""
    return any(f"code {-number}" in said or f"code `{-number}`" in said for number in (signal.SIGXCPU, signal.SIGKILL))


def compiled_apart(configuration: Configuration, cpu_seconds: int = CPU_SECONDS) -> CompileRecord:
    """As `compiled_record`, in a process of its own, which may crash and is stopped after so much processor time."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _answer(configuration, writer, cpu_seconds)
    os.close(writer)
    text = _heard(reader, child)
    _, status = os.waitpid(child, 0)
    if text and status == 0:
        return _record(json.loads(text))
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    stopped = number in (signal.SIGXCPU, signal.SIGKILL)
    failed = TIMEOUT if stopped else f"the compiler died of signal {number}, status {status}"
    return not_compiled(configuration, failed)


def _record(value: Mapping[str, Any]) -> CompileRecord:
    found = record_of(value, COMPILES)
    assert isinstance(found, CompileRecord)
    return found


def _answer(configuration: Configuration, writer: int, cpu_seconds: int) -> None:
    """What the other process does; it never returns."""
    status = 1
    try:
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 5))
        with _own_cache():
            record = compiled_record(configuration)
        with os.fdopen(writer, "w") as pipe:
            json.dump(record_value(record), pipe)
        status = 0
    except BaseException as problem:
        print(f"{configuration.key}: {type(problem).__name__}: {problem}", file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(status)


@contextmanager
def _own_cache() -> Generator[None]:
    """Triton compiles everything anew, and keeps nothing."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(TRITON_CACHE_DIR=folder, TRITON_ALWAYS_COMPILE="1")
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def _heard(reader: int, child: int) -> str:
    """All that the other process writes; it is killed where nothing comes for too long.

    Waits are counted, not timed: a stopped process waits for no time.
    """
    parts: list[bytes] = []
    waits = 0
    with os.fdopen(reader, "rb", buffering=0) as pipe:
        while True:
            if not select.select([pipe], [], [], 1.0)[0]:
                waits += 1
                if waits == WAITED_SECONDS:
                    os.kill(child, signal.SIGKILL)
                continue
            if not (part := pipe.read(1 << 16)):
                return b"".join(parts).decode()
            parts.append(part)


def collect(target: str, count: int, out: Path, part: tuple[int, int] = (0, 1), cpu_seconds: int = CPU_SECONDS) -> int:
    """Append a record for each of the first `count` configurations that `out` lacks; returns how many there were.

    Of `part` (0, 2) every second configuration is compiled, beginning with the first.
    """
    writer = Writer(out, header(target, count))
    done = {Configuration.of(record).key for record in writer.records if isinstance(record, CompileRecord)}
    wanted = [found for found in islice(configurations(target), part[0], count, part[1]) if found.key not in done]
    if wanted:
        # The first kernel in a process takes a second more, to load the compiler: the others are made from there.
        with _own_cache():
            compiled_record(WARM)
    for configuration in wanted:
        writer.write([compiled_apart(configuration, cpu_seconds)])
    if wanted:
        pack(out)
    return len(wanted)


def header(target: str, count: int) -> Header:
    """Where records that are made now are from."""
    versions = {name: version(name) for name in ("attir", "triton")}
    command = f"python -m attir.compiler.collect_compiles --target {target} --count {count}"
    return Header(COMPILES, platform.machine(), versions, datetime.now(UTC).date().isoformat(), command)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--target", required=True, choices=TARGETS)
    parser.add_argument("--count", type=int, required=True, help="how many configurations of the sample")
    parser.add_argument("--out", type=Path, required=True, help="a file (.jsonl.gz), to which records are appended")
    parser.add_argument("--part", default="0/1", help="I/N: compile only every N-th one, from the I-th on")
    options = parser.parse_args(arguments)
    first, _, parts = str(options.part).partition("/")
    fresh = collect(options.target, options.count, options.out, (int(first), int(parts)))
    print(f"{fresh} configurations compiled for {options.target}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
