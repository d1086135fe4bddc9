"""Turns MLIR's builtin dialects into x86-64 object code through torch-mlir's LLVM, and back into assembly."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from threading import RLock
from types import SimpleNamespace
from typing import Any, cast

from ..ir.diagnostics import error
from .native_object import BadObject, ElfObject, Symbol, read_object

PIPELINE = "builtin.module(convert-scf-to-cf,convert-to-llvm,reconcile-unrealized-casts)"

# LLVM's middle end finds nothing to do in code written register by register: measured on the
# attention kernels, levels 1 to 3 double the time to compile and the kernels are as fast.
OPTIMIZATION = 0

# Held while LLVM works and while kernels are loaded. A fork waits for it, so that no child starts
# with one of LLVM's locks held by a thread that the child does not have.
BUILDING = RLock()
os.register_at_fork(before=BUILDING.acquire, after_in_parent=BUILDING.release, after_in_child=BUILDING.release)

WRAPPER = "_mlir_"  # before the names of functions that only unpack arguments for the engine
_JUMP = re.compile(r"^0x[0-9a-f]+$")


def compile_object(text: str) -> bytes:
    """The relocatable ELF object of an MLIR module, for the CPU this runs on.

    Every `func.func` becomes a symbol of its name. Raises CompileError without torch-mlir, and with
    the words of MLIR where it rejects the text.
    """
    mlir = _torch_mlir()
    said: list[str] = []

    def listen(diagnostic: Any) -> bool:
        said.append(f"{diagnostic.location}: {diagnostic.message}")
        return True

    with BUILDING, mlir.ir.Context() as context:
        # No pool of threads, which a fork would lose.
        context.enable_multithreading(False)
        handler = context.attach_diagnostic_handler(listen)
        try:
            module = mlir.ir.Module.parse(text)
            mlir.passmanager.PassManager.parse(PIPELINE).run(module.operation)
            return _object(mlir.execution_engine.ExecutionEngine(module, opt_level=OPTIMIZATION))
        except (mlir.ir.MLIRError, RuntimeError) as problem:
            said += [f"{d.location}: {d.message}" for d in getattr(problem, "error_diagnostics", ())]
            raise error(f"MLIR rejects a generated kernel: {'; '.join(said) or problem}") from problem
        finally:
            handler.detach()


def _object(engine: Any) -> bytes:
    try:
        with tempfile.TemporaryDirectory(prefix="attir-") as directory:
            path = Path(directory) / "kernels.o"
            engine.dump_to_object_file(str(path))
            return path.read_bytes()
    except OSError as problem:
        raise error(f"cannot keep a compiled kernel in a temporary file: {problem.strerror}; set TMPDIR") from problem


def _torch_mlir() -> Any:
    parts = ("ir", "passmanager", "execution_engine")
    try:
        return SimpleNamespace(**{part: import_module(f"torch_mlir.{part}") for part in parts})
    except ImportError as problem:
        raise error(
            f"the native backend needs torch-mlir: pip install torch-mlir ({problem}); "
            'backend="interpret" runs without it (slowly, for correctness only)'
        ) from problem


def disassemble(data: bytes) -> str:
    """The assembly of an object's functions in Intel's syntax, with labels where jumps lead.

    An address that only the loader knows is named at the end of its line. Raises CompileError
    without capstone and for bytes that are no object.
    """
    try:
        import capstone
    except ImportError as problem:
        raise error(f"reading machine code needs capstone: pip install capstone ({problem})") from problem
    try:
        found = read_object(data)
    except BadObject as problem:
        raise error(f"cannot disassemble: {problem}") from problem
    x86 = cast(Any, capstone)
    machine = x86.Cs(x86.CS_ARCH_X86, x86.CS_MODE_64)
    machine.skipdata = True  # a byte that it does not know must not end the listing
    lines: list[str] = []
    for symbol in found.symbols:
        code = found.sections.get(symbol.section)
        if code and code.executable and symbol.exported and not symbol.name.startswith(WRAPPER):
            rows = machine.disasm_lite(code.data[symbol.value :][: symbol.size], symbol.value)
            lines += _listing(symbol, list(rows), _named_addresses(found, symbol))
    return "\n".join(lines) + "\n"


def _listing(symbol: Symbol, rows: list[tuple[int, int, str, str]], named: dict[int, str]) -> Iterator[str]:
    """`rows` are address, size, mnemonic and operands."""
    inside = range(symbol.value, symbol.value + symbol.size)
    targets = {int(operands, 16) for _, _, _, operands in rows if _JUMP.match(operands)}
    labels = {address: f".L{number}" for number, address in enumerate(sorted(targets & set(inside)))}
    yield f"{symbol.name}:"
    for address, size, mnemonic, operands in rows:
        if address in labels:
            yield f"{labels[address]}:"
        if _JUMP.match(operands):
            operands = labels.get(int(operands, 16), operands)
        notes = [named[byte] for byte in range(address, address + size) if byte in named]
        yield f"    {mnemonic:<15} {operands}".rstrip() + (f"  # {', '.join(notes)}" if notes else "")


def _named_addresses(found: ElfObject, symbol: Symbol) -> dict[int, str]:
    """What the loader writes at which bytes of the section `symbol` is in."""
    names: dict[int, str] = {}
    for relocation in found.relocations:
        if relocation.section == symbol.section:
            target = found.symbols[relocation.symbol]
            section = found.sections.get(target.section)
            name = target.name or (section.name if section else "?")
            names[relocation.offset] = name + (f"+{relocation.addend:#x}" if relocation.addend else "")
    return names
