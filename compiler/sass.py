"""Reads disassembled NVIDIA kernels: registers, loops, tensor-core instructions, spills."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..ir.diagnostics import error

MATRIX_OPCODES = ("HGMMA", "QGMMA", "IGMMA", "HMMA", "IMMA", "DMMA", "UTCHMMA", "UTCQMMA", "UTCIMMA")
SPILL_OPCODES = ("LDL", "STL")
_INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)(.*?);", re.MULTILINE)
_RESOURCES = re.compile(r"REG:(\d+)\s+STACK:(\d+)\s+SHARED:(\d+)\s+LOCAL:(\d+)")
_TARGET = re.compile(r"0x([0-9a-f]+)")


@dataclass(frozen=True)
class Instruction:
    """One machine instruction; `opcode` is without its modifiers: `HGMMA`, `BRA`."""

    address: int
    opcode: str
    full_opcode: str
    operands: str


@dataclass(frozen=True)
class Loop:
    """The instructions of one loop, from its first to the branch back."""

    instructions: tuple[Instruction, ...]

    @property
    def opcodes(self) -> Counter[str]:
        return Counter(i.opcode for i in self.instructions)

    @property
    def matrix_instructions(self) -> int:
        return sum(self.opcodes[o] for o in MATRIX_OPCODES)

    @property
    def spills(self) -> int:
        """Loads and stores of registers that did not fit."""
        return sum(self.opcodes[o] for o in SPILL_OPCODES)

    def __len__(self) -> int:
        return len(self.instructions)


@dataclass(frozen=True)
class SassReport:
    """`registers` a thread, `stack` bytes a thread, and the loops that do the kernel's work."""

    registers: int
    stack: int
    instructions: tuple[Instruction, ...]
    loops: tuple[Loop, ...]

    @property
    def opcodes(self) -> Counter[str]:
        return Counter(i.opcode for i in self.instructions)

    @property
    def matrix_instructions(self) -> dict[str, int]:
        """Tensor-core instructions by opcode, those that occur."""
        return {o: self.opcodes[o] for o in MATRIX_OPCODES if self.opcodes[o]}

    @property
    def spills(self) -> int:
        return sum(self.opcodes[o] for o in SPILL_OPCODES)

    @property
    def loop_spills(self) -> int:
        return sum(loop.spills for loop in self.loops)


def parse_instructions(text: str) -> tuple[Instruction, ...]:
    """The instructions of a `cuobjdump -sass` listing."""
    return tuple(
        Instruction(int(m[1], 16), m[2].partition(".")[0], m[2], m[3].strip()) for m in _INSTRUCTION.finditer(text)
    )


def find_loops(instructions: Sequence[Instruction]) -> tuple[Loop, ...]:
    """Every loop: from the target of a branch that goes back, to that branch."""
    by_address = {instruction.address: i for i, instruction in enumerate(instructions)}
    loops: list[Loop] = []
    for last, instruction in enumerate(instructions):
        targets = [int(t, 16) for t in _TARGET.findall(instruction.operands)] if instruction.opcode == "BRA" else []
        first = by_address.get(targets[-1]) if targets else None
        if first is not None and first < last:
            loops.append(Loop(tuple(instructions[first : last + 1])))
    return tuple(loops)


def working_loops(instructions: Sequence[Instruction]) -> tuple[Loop, ...]:
    """The smallest loop around each matrix instruction or exponential, in order.

    Retry blocks of barriers, placed out of line, look like large loops; taking the smallest avoids them.
    """
    found: dict[Loop, None] = {}
    loops = sorted(find_loops(instructions), key=len)
    for instruction in instructions:
        if instruction.opcode in MATRIX_OPCODES or instruction.full_opcode.startswith("MUFU.EX2"):
            around = (loop for loop in loops if instruction in loop.instructions)
            if (smallest := next(around, None)) is not None:
                found[smallest] = None
    return tuple(found)


def disassemble(cubin: bytes) -> SassReport:
    """What a cubin holds, by the cuobjdump that comes with Triton; CompileError where that is missing."""
    tool = cuobjdump()
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = _run([str(tool), "-res-usage", file.name])
        instructions = parse_instructions(_run([str(tool), "-sass", file.name]))
    resources = _RESOURCES.search(usage)
    if resources is None or not instructions:
        raise error(f"'{tool}' printed nothing that looks like a kernel")
    return SassReport(int(resources[1]), int(resources[2]), instructions, working_loops(instructions))


def cuobjdump() -> Path:
    """The disassembler inside the installed Triton."""
    import triton

    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    if not path.is_file():
        raise error(f"triton {triton.__version__} has no cuobjdump at {path}, which is needed to read cubins")
    return path


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise error(f"'{command[0]}' failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout
