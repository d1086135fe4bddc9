"""Kernels over operands in few bits: which tensor cores their loops use, and that nothing spills or is converted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from attir.compiler.attention_cases import Case
from attir.compiler.prepare_site import prepare
from attir.compiler.schemes import scheme
from attir.ir.attributes import f16
from attir.ir.core import Operation
from attir.ir.diagnostics import CompileError
from benchmarks.emitted.compiled import compiled
from benchmarks.emitted.table import Row

HOPPER, AMPERE = "sm_90", "sm_80"
DECODE_ROWS = 16


@dataclass(frozen=True)
class StoredCase(Case):
    """A case whose q, k and v are stored as a scheme of `attir.quantization` says."""

    scheme: str = "int8"

    def module(self, name: str = "attention") -> Operation:
        return prepare(super().module(name), None, quantize=scheme(self.scheme)).program.kernel()


@dataclass(frozen=True)
class Wanted:
    """A scheme on a device, and the tensor-core instructions that each loop must have."""

    scheme: str
    opcodes: tuple[str, ...]
    target: str = HOPPER
    rows: int = 0


QUICK = (Wanted("int8", ("IGMMA", "HGMMA")), Wanted("kv4", ("HMMA",), rows=DECODE_ROWS))
SLOW = (
    Wanted("fp8", ("QGMMA",)),
    Wanted("int8", ("IMMA", "HMMA"), AMPERE),
    *(Wanted(f"kv{bits}", ("HGMMA",)) for bits in (2, 4, 8)),
    *(Wanted(f"kv{bits}", ("HMMA",), rows=DECODE_ROWS) for bits in (1, 2, 3, 5, 6, 7, 8)),
    Wanted("kv4", ("HMMA",), AMPERE, DECODE_ROWS),
    Wanted("kv_fp8", ("HMMA",), rows=DECODE_ROWS),
)


def stored_rows(*, quick: bool) -> Iterator[Row]:
    """Products of codes, and caches in few bits, in prefill and in decode."""
    for wanted in QUICK if quick else (*QUICK, *SLOW):
        yield stored_row(wanted)


def stored_row(wanted: Wanted) -> Row:
    kind = "decode" if wanted.rows else "prefill"
    what = f"{wanted.target} {wanted.scheme} D=128 {kind}: {', '.join(wanted.opcodes)}, no spill, codes not converted"
    try:
        kernel = compiled(StoredCase(f16, 128, group=4, lse=False, scheme=wanted.scheme), wanted.target, wanted.rows)
    except CompileError as refused:
        return Row(what, "yes", str(refused).splitlines()[0], holds=False)
    loops, main = kernel.machine_loops, kernel.main
    counts = [loop.opcodes for loop in loops]
    cores = ", ".join(f"{count} {opcode}" for opcode, count in main.matrix_instructions.items())
    # Sums of products of bytes are converted: on sm_80 by the same instruction as bytes would be.
    own = wanted.target == AMPERE and "IMMA" in wanted.opcodes
    conversions = 0 if own else max((count["I2F"] for count in counts), default=0)
    figure = (
        f"{cores} in all, {main.loop_spills} LDL/STL, {conversions} I2F, loops of "
        f"{', '.join(str(len(loop)) for loop in loops)}, {main.registers} registers ({kernel.tile})"
    )
    used = bool(loops) and all(count[opcode] for count in counts for opcode in wanted.opcodes)
    return Row(what, "yes", figure, used and main.loop_spills == 0 and conversions == 0)
