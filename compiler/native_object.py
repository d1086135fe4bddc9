"""Loads a relocatable x86-64 ELF object into this process: no linker, no compiler, no other package.

Reads what LLVM's in-process compiler writes; whatever else a file says is refused before anything
runs. Memory is written first and made executable afterwards, never both at once.
Source: System V ABI, AMD64 supplement, tables 4.10 (relocations) and 4.15 (sections).
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from ..ir.diagnostics import error

# Section types, section flags and places of symbols.
_PROGBITS, _SYMTAB, _RELA, _NOBITS, _REL = 1, 2, 4, 8, 9
_WRITE, _ALLOC, _EXECUTE, _THREAD = 0x1, 0x2, 0x4, 0x400
_UNDEFINED = 0
_UNWIND = 0x70000001

# How the bytes of a relocation are computed: S symbol, A addend, P place, G slot with the address.
ABSOLUTE_64, PC_32, PLT_32, PC_64 = 1, 2, 4, 24
GOT_KINDS = (9, 41, 42)
_WIDTHS = {ABSOLUTE_64: 8, PC_32: 4, PLT_32: 4, PC_64: 8, **dict.fromkeys(GOT_KINDS, 4)}

_LARGEST = 1 << 28  # bytes; a kernel has some ten thousand
_STUB = 16  # bytes: movabs rax, ADDRESS; jmp rax
_SLOT = 8

# What LLVM calls by itself, all of it in libc and libm.
_MEMORY = ("memset", "memcpy", "memmove", "memcmp", "bcmp")
_MATH = (
    *("exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "pow", "sqrt", "cbrt", "erf", "erfc"),
    *("sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "tanh"),
    *("fma", "fmod", "fmin", "fmax", "floor", "ceil", "trunc", "round", "roundeven", "rint", "nearbyint", "ldexp"),
)
EXTERNALS = frozenset((*_MEMORY, *_MATH, *(f"{name}f" for name in _MATH)))


class BadObject(ValueError):  # noqa: N818 - the object is at fault, whoever made it
    """The bytes are no object this loader can run; says what is wrong with them."""


@dataclass(frozen=True)
class Section:
    """Bytes to be loaded; `size` exceeds the length of `data` where the rest are zeros."""

    name: str
    flags: int
    alignment: int
    data: bytes
    size: int

    @property
    def executable(self) -> bool:
        return bool(self.flags & _EXECUTE)

    @property
    def writable(self) -> bool:
        return bool(self.flags & _WRITE)


@dataclass(frozen=True)
class Symbol:
    """A name at `value` bytes into section number `section`; 0 is for names defined elsewhere."""

    name: str
    section: int
    value: int
    size: int
    exported: bool


@dataclass(frozen=True)
class Relocation:
    """Bytes of `section` at `offset` that depend on where symbol number `symbol` is."""

    section: int
    offset: int
    kind: int
    symbol: int
    addend: int


@dataclass(frozen=True)
class ElfObject:
    """What a file says, checked: every offset lies inside what it refers to."""

    sections: dict[int, Section]
    symbols: tuple[Symbol, ...]
    relocations: tuple[Relocation, ...]


def read_object(data: bytes) -> ElfObject:
    """The parts of a relocatable ELF object that are loaded; raises BadObject."""
    try:
        return _Reader(data).read()
    except struct.error as problem:
        raise BadObject(f"the object ends early ({problem})") from problem


@dataclass(frozen=True)
class _Header:
    name: int
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    alignment: int
    entry: int


class _Reader:
    """One pass over the file, from the header to the tables it leads to."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        # 64-bit, little-endian; relocatable, x86-64.
        if data[:6] != b"\x7fELF\x02\x01" or struct.unpack_from("<HH", data, 16) != (1, 62):
            raise BadObject("not a relocatable x86-64 ELF object")
        (start,) = struct.unpack_from("<Q", data, 0x28)
        size, count, names = struct.unpack_from("<HHH", data, 0x3A)
        if size != 64:
            raise BadObject(f"section headers of {size} bytes; expected 64")
        rows = struct.iter_unpack("<IIQQQQIIQQ", self.bytes_at(start, 64 * count, "section headers"))
        self.headers = [_Header(*row) for row in rows]
        self.names = self.header(names, "section names")

    def read(self) -> ElfObject:
        loaded = {n: h for n, h in enumerate(self.headers) if h.flags & _ALLOC and h.size}
        sections = {number: self.section(h) for number, h in loaded.items()}
        tables = [h for h in self.headers if h.type == _SYMTAB]
        symbols = tuple(self.symbols(tables[0], sections)) if tables else ()
        relocations: list[Relocation] = []
        for header in self.headers:
            if header.info in sections and header.type == _REL:
                raise BadObject("relocations without addends, which x86-64 does not use")
            if header.info in sections and header.type == _RELA:
                relocations += self.relocations(header, sections[header.info], len(symbols))
        return ElfObject(sections, symbols, tuple(relocations))

    def header(self, number: int, what: str) -> _Header:
        if number >= len(self.headers):
            raise BadObject(f"{what} in section {number} of {len(self.headers)}")
        return self.headers[number]

    def bytes_at(self, offset: int, size: int, what: str) -> bytes:
        if offset + size > len(self.data):
            raise BadObject(f"{what} at {offset}..{offset + size} of {len(self.data)} bytes")
        return self.data[offset : offset + size]

    def text(self, table: _Header, offset: int) -> str:
        """A name in a table of zero-terminated names."""
        start, stop = table.offset + offset, table.offset + table.size
        end = self.data.find(b"\0", start, stop)
        if start >= stop or end < 0:
            raise BadObject("a name outside its table")
        return self.data[start:end].decode(errors="replace")

    def section(self, header: _Header) -> Section:
        name = self.text(self.names, header.name)
        if header.type not in (_PROGBITS, _NOBITS, _UNWIND):
            raise BadObject(f"section {name} has type {header.type}")
        alignment = max(header.alignment, 1)
        if alignment > mmap.PAGESIZE or alignment & (alignment - 1):
            raise BadObject(f"section {name} is aligned to {alignment}")
        if header.flags & _WRITE and header.flags & _EXECUTE:
            raise BadObject(f"section {name} is both writable and executable")
        if header.flags & _THREAD:
            raise BadObject(f"section {name} is per thread")
        data = b"" if header.type == _NOBITS else self.bytes_at(header.offset, header.size, f"section {name}")
        return Section(name, header.flags, alignment, data, header.size)

    def symbols(self, table: _Header, sections: dict[int, Section]) -> Iterator[Symbol]:
        names = self.header(table.link, "symbol names")
        rows = self.bytes_at(table.offset, table.size // 24 * 24, "the symbol table")
        for name, info, _, section, value, size in struct.iter_unpack("<IBBHQQ", rows):
            text = self.text(names, name) if name else ""
            if section in sections and value + size > sections[section].size:
                raise BadObject(f"symbol {text!r} lies outside section {sections[section].name}")
            yield Symbol(text, section, value, size, exported=bool(text) and info >> 4 != 0)

    def relocations(self, header: _Header, section: Section, symbols: int) -> Iterator[Relocation]:
        rows = self.bytes_at(header.offset, header.size // 24 * 24, "a relocation table")
        for offset, info, addend in struct.iter_unpack("<QQq", rows):
            kind, symbol = info & 0xFFFFFFFF, info >> 32
            if kind not in _WIDTHS:
                raise BadObject(f"unknown relocation {kind} in section {section.name}")
            if offset + _WIDTHS[kind] > section.size or symbol >= symbols:
                raise BadObject(f"a relocation outside section {section.name}")
            yield Relocation(header.info, offset, kind, symbol, addend)


class LoadedObject:
    """Code in memory, for as long as this lives: who keeps an address must keep the object."""

    def __init__(self, memory: mmap.mmap, symbols: dict[str, int]) -> None:
        self._memory = memory
        self._symbols = symbols

    @property
    def symbols(self) -> tuple[str, ...]:
        return tuple(self._symbols)

    def address(self, symbol: str) -> int:
        """Where a function starts; raises BadObject where there is none of that name."""
        if symbol not in self._symbols:
            raise BadObject(f"no function {symbol!r} in the object; it has {', '.join(self._symbols) or 'none'}")
        return self._symbols[symbol]


def load_object(data: bytes) -> LoadedObject:
    """The object's code and constants, in memory and ready to run; raises BadObject."""
    found = read_object(data)
    layout = _Layout(found)
    memory = mmap.mmap(-1, layout.size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    link = _Link(found, layout, memory, base)
    link.copy()
    for relocation in found.relocations:
        link.apply(relocation)
    _protect(base, layout.code, mmap.PROT_READ | mmap.PROT_EXEC)
    _protect(base + layout.code, layout.constants, mmap.PROT_READ)
    functions = {s.name: link.address(s) for s in found.symbols if s.exported and _is_code(found, s)}
    return LoadedObject(memory, functions)


def _is_code(found: ElfObject, symbol: Symbol) -> bool:
    return symbol.section in found.sections and found.sections[symbol.section].executable


def _page(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


class _Layout:
    """Where everything goes: pages of code, then of constants, then of what may be written."""

    def __init__(self, found: ElfObject) -> None:
        self.offsets: dict[int, int] = {}
        used = {(r.symbol, r.kind in GOT_KINDS) for r in found.relocations}
        self.stubs = {s: i * _STUB for i, s in enumerate(sorted(s for s, slot in used if not slot))}
        self.slots = {s: i * _SLOT for i, s in enumerate(sorted(s for s, slot in used if slot))}
        groups: tuple[dict[int, Section], ...] = ({}, {}, {})
        for number, section in found.sections.items():
            groups[0 if section.executable else 2 if section.writable else 1][number] = section
        end = self.place(groups[0], 0)
        self.stubs = {s: end + offset for s, offset in self.stubs.items()}
        self.code = _page(end + _STUB * len(self.stubs))
        end = self.place(groups[1], self.code)
        self.slots = {s: end + offset for s, offset in self.slots.items()}
        self.constants = _page(end + _SLOT * len(self.slots)) - self.code
        self.size = max(_page(self.place(groups[2], self.code + self.constants)), mmap.PAGESIZE)

    def place(self, sections: dict[int, Section], offset: int) -> int:
        """Put sections one after another; the first free offset after them, which is a multiple of 16."""
        for number, section in sections.items():
            offset = -(-offset // section.alignment) * section.alignment
            self.offsets[number] = offset
            offset += section.size
            if offset > _LARGEST:
                raise BadObject(f"more than {_LARGEST} bytes to load")
        return -(-offset // 16) * 16


@dataclass
class _Link:
    """Fills in the bytes that depend on where things are."""

    found: ElfObject
    layout: _Layout
    memory: mmap.mmap
    base: int

    def copy(self) -> None:
        for number, section in self.found.sections.items():
            start = self.layout.offsets[number]
            self.memory[start : start + len(section.data)] = section.data

    def address(self, symbol: Symbol) -> int:
        if symbol.section in self.layout.offsets:
            return self.base + self.layout.offsets[symbol.section] + symbol.value
        if symbol.section != _UNDEFINED or not symbol.name:
            raise BadObject(f"symbol {symbol.name!r} is in section {symbol.section}, which is not loaded")
        return _external(symbol.name)

    def apply(self, relocation: Relocation) -> None:
        symbol = self.found.symbols[relocation.symbol]
        target = self.address(symbol)
        place = self.layout.offsets[relocation.section] + relocation.offset
        if relocation.kind in GOT_KINDS:
            target = self.slot(relocation.symbol, target)
        elif _WIDTHS[relocation.kind] == 4 and symbol.section == _UNDEFINED:
            # A library is too far away for 32 bits.
            target = self.stub(relocation.symbol, target)
        value = target + relocation.addend
        if relocation.kind == ABSOLUTE_64:
            struct.pack_into("<Q", self.memory, place, value & (1 << 64) - 1)
            return
        value -= self.base + place
        width = _WIDTHS[relocation.kind]
        if not -(1 << 8 * width - 1) <= value < 1 << 8 * width - 1:
            raise BadObject(f"symbol {symbol.name!r} is out of reach of {8 * width} bits")
        struct.pack_into("<i" if width == 4 else "<q", self.memory, place, value)

    def slot(self, number: int, target: int) -> int:
        struct.pack_into("<Q", self.memory, self.layout.slots[number], target)
        return self.base + self.layout.slots[number]

    def stub(self, number: int, target: int) -> int:
        code = b"\x48\xb8" + struct.pack("<Q", target) + b"\xff\xe0"
        start = self.layout.stubs[number]
        self.memory[start : start + len(code)] = code
        return self.base + start


@cache
def _library(name: str) -> ctypes.CDLL:
    return ctypes.CDLL(name, use_errno=True)


def _external(name: str) -> int:
    """The address of a function of libc or libm."""
    if name in EXTERNALS:
        library = _library("libc.so.6" if name in _MEMORY else "libm.so.6")
        if hasattr(library, name) and (address := ctypes.cast(getattr(library, name), ctypes.c_void_p).value):
            return address
    raise BadObject(f"the object calls {name!r}, which libc and libm do not offer to kernels")


def _protect(address: int, size: int, protection: int) -> None:
    if size and _library("libc.so.6").mprotect(ctypes.c_void_p(address), ctypes.c_size_t(size), protection):
        words = os.strerror(ctypes.get_errno())
        raise error(f"the system does not let this process run code that it has compiled: {words}")
