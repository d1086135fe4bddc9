"""Objects are loaded and linked; whatever is wrong with their bytes is said and never run."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.compiler.counting_kernel import COUNT, counts

from attir.compiler.native_compiler import compile_object
from attir.compiler.native_object import BadObject, LoadedObject, load_object, read_object
from attir.compiler.native_threads import NativeFunction

# Numbers of the System V ABI.
ALLOC, WRITE, EXECUTE = 2, 1, 4
TEXT, RODATA, DATA = 1, 2, 3
FUNCTION_SYMBOL, OBJECT_SYMBOL = 0x12, 0x11


@cache
def counting_object() -> bytes:
    return compile_object(COUNT)


Rows = Sequence[tuple[int, int, int, int]]  # offset, kind, symbol, addend


def elf(
    code: bytes,
    relocations: Rows = (),
    data_relocations: Rows = (),
    text_flags: int = ALLOC | EXECUTE,
    external: bytes = b"memset",
    text_alignment: int = 16,
    zeros: int = 16,
    start: int = 0,
) -> bytes:
    """An object with code, 16 bytes of constants, zeros that may be written, and symbols 1 to 4: f, k, z, external."""
    strings = b"\0f\0k\0z\0" + external + b"\0"
    symbols = bytes(24)
    for name, info, section, value in (
        (1, FUNCTION_SYMBOL, TEXT, start), (3, OBJECT_SYMBOL, RODATA, 8), (5, OBJECT_SYMBOL, DATA, 0), (7, 0x10, 0, 0),
    ):  # fmt: skip
        symbols += struct.pack("<IBBHQQ", name, info, 0, section, value, 0)
    constants = struct.pack("<QQ", 0, 42)
    tables = [
        b"".join(struct.pack("<QQq", o, s << 32 | k, a) for o, k, s, a in r) for r in (relocations, data_relocations)
    ]
    # type, flags, contents, link, info, entry, alignment
    sections: list[tuple[int, int, bytes, int, int, int, int]] = [
        (0, 0, b"", 0, 0, 0, 0),
        (1, text_flags, code, 0, 0, 0, text_alignment),
        (1, ALLOC, constants, 0, 0, 0, 8),
        (8, ALLOC | WRITE, b"", 0, 0, 0, 8),
        (4, 0, tables[0], 6, TEXT, 24, 8),
        (4, 0, tables[1], 6, RODATA, 24, 8),
        (2, 0, symbols, 7, 1, 24, 8),
        (3, 0, strings, 0, 0, 0, 1),
    ]
    body, headers = b"", b""
    for kind, flags, contents, link, info, entry, alignment in sections:
        size = zeros if kind == 8 else len(contents)
        headers += struct.pack("<IIQQQQIIQQ", 0, kind, flags, 0, 64 + len(body), size, link, info, alignment, entry)
        body += contents
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = ident + struct.pack("<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, 64 + len(body), 0, 64, 0, 0, 64, len(sections), 7)
    return header + body + headers


def run(loaded: LoadedObject, *words: int) -> list[int]:
    block = (ctypes.c_int64 * 8)(*words)
    NativeFunction(loaded.address("f"), loaded).run(ctypes.addressof(block), 1)
    return list(block)


def problem(data: bytes) -> str:
    with pytest.raises(BadObject) as raised:
        load_object(data)
    return str(raised.value)


RETURN = b"\xc3"
LOAD_CONSTANT = b"\x8b\x05\0\0\0\0\x89\x07\xc3"  # mov eax, [rip + ?]; mov [rdi], eax; ret
LOAD_SLOT = b"\x48\x8b\x05\0\0\0\0\x8b\x00\x89\x07\xc3"  # mov rax, [rip + ?]; mov eax, [rax]; mov [rdi], eax; ret
LOAD_ADDRESS = b"\x48\xb8" + bytes(8) + b"\x48\x89\x07\xc3"  # movabs rax, ?; mov [rdi], rax; ret
# lea rdi, [rdi + 8]; mov esi, 7; mov edx, 4; sub rsp, 8; call ?; add rsp, 8; ret
CALL = bytes.fromhex("488d7f08 be07000000 ba04000000 4883ec08 e800000000 4883c408 c3")


def test_a_real_object_runs() -> None:
    loaded = load_object(counting_object())
    assert counts(NativeFunction(loaded.address("count"), loaded), 1)


def test_a_function_lives_as_long_as_something_holds_it() -> None:
    def load() -> NativeFunction:
        loaded = load_object(counting_object())
        return NativeFunction(loaded.address("count"), loaded)

    functions = [load() for _ in range(50)]
    assert all(counts(function, 1) for function in functions)


def test_a_name_that_is_not_there_is_said() -> None:
    with pytest.raises(BadObject, match="no function 'other' in the object; it has count"):
        load_object(counting_object()).address("other")


@pytest.mark.parametrize("kind", [2, 4])
def test_distances_to_constants(kind: int) -> None:
    assert run(load_object(elf(LOAD_CONSTANT, [(2, kind, 2, -4)])))[0] == 42


@pytest.mark.parametrize("kind", [9, 41, 42])
def test_slots_with_addresses(kind: int) -> None:
    assert run(load_object(elf(LOAD_SLOT, [(3, kind, 2, -4)])))[0] == 42


def test_whole_addresses() -> None:
    loaded = load_object(elf(LOAD_ADDRESS, [(2, 1, 2, -8)], [(0, 24, 2, 0)]))
    address = run(loaded)[0]
    # The constants hold the distance from their start to the number 42, which is 8 bytes behind it.
    assert list((ctypes.c_int64 * 2).from_address(address)) == [8, 42]


@pytest.mark.parametrize("kind", [2, 4])
def test_calls_of_libraries(kind: int) -> None:
    assert run(load_object(elf(CALL, [(19, kind, 4, -4)])), 5, -1, 6)[:3] == [5, -1 << 32 | 0x07070707, 6]


def test_zeros_can_be_written() -> None:
    loaded = load_object(elf(LOAD_ADDRESS, [(2, 1, 3, 0)]))
    zeros = (ctypes.c_int64 * 2).from_address(run(loaded)[0])
    assert list(zeros) == [0, 0]
    zeros[1] = 3


def test_nothing_is_writable_and_executable() -> None:
    loaded = load_object(elf(RETURN))
    address = loaded.address("f")
    rights: list[str] = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, _, last = line.split()[0].partition("-")
        if int(first, 16) <= address < int(last, 16):
            rights.append(line.split()[1])
    assert rights == ["r-xp"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not a relocatable x86-64 ELF object"),
        (b"\x7fELF\x02\x01", "the object ends early"),
        (elf(RETURN).replace(b"\x3e\0", b"\xb7\0", 1), "not a relocatable x86-64 ELF object"),
        (elf(LOAD_CONSTANT, [(2, 99, 2, 0)]), "unknown relocation 99"),
        (elf(LOAD_CONSTANT, [(6, 2, 2, 0)]), "a relocation outside section"),
        (elf(LOAD_CONSTANT, [(2, 2, 9, 0)]), "a relocation outside section"),
        (elf(LOAD_CONSTANT, [(2, 2, 2, 1 << 40)]), "symbol 'k' is out of reach of 32 bits"),
        (elf(LOAD_CONSTANT, [(2, 2, 0, 0)]), "symbol '' is in section 0, which is not loaded"),
        (elf(CALL, [(19, 4, 4, -4)], external=b"system"), "the object calls 'system'"),
        (elf(CALL, [(19, 4, 4, -4)], external=b"there_is_none"), "the object calls 'there_is_none'"),
        (elf(RETURN, text_flags=ALLOC | WRITE | EXECUTE), "is both writable and executable"),
        (elf(RETURN, text_flags=ALLOC | EXECUTE | 0x400), "is per thread"),
        (elf(RETURN, text_alignment=24), "is aligned to 24"),
        (elf(RETURN, text_alignment=1 << 20), "is aligned to 1048576"),
        (elf(RETURN, zeros=1 << 40), "bytes to load"),
        (elf(RETURN, start=2), "symbol 'f' lies outside section"),
    ],
)
def test_what_is_wrong_is_said(data: bytes, words: str) -> None:
    assert words in problem(data)


def test_an_object_cut_anywhere_is_refused() -> None:
    data = counting_object()
    for length in range(len(data)):
        problem(data[:length])


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_changed_bytes_never_break_the_loader(data: st.DataObject) -> None:
    """They load or are refused; nothing is run, since changed code may do anything."""
    changed = bytearray(counting_object())
    places = st.integers(0, len(changed) - 1)
    for place in data.draw(st.lists(places, min_size=1, max_size=8)):
        changed[place] = data.draw(st.one_of(st.integers(0, 255), st.sampled_from([0, 1, 127, 128, 255])))
    try:
        load_object(bytes(changed))
    except BadObject as refused:
        assert str(refused)


def test_every_byte_of_the_tables_may_be_wrong() -> None:
    data = counting_object()
    (start,) = struct.unpack_from("<Q", data, 0x28)
    for place in [*range(64), *range(start, len(data))]:
        for value in (0, 0xFF, data[place] ^ 1, data[place] ^ 0x80):
            try:
                load_object(data[:place] + bytes([value]) + data[place + 1 :])
            except BadObject:
                continue


@given(st.binary(max_size=400))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_refused(rest: bytes) -> None:
    problem(rest)
    problem(elf(RETURN)[:64] + rest)


def test_reading_an_object_gives_its_parts() -> None:
    found = read_object(elf(LOAD_CONSTANT, [(2, 2, 2, -4)]))
    assert [symbol.name for symbol in found.symbols] == ["", "f", "k", "z", "memset"]
    assert [(r.section, r.offset, r.kind, r.symbol, r.addend) for r in found.relocations] == [(1, 2, 2, 2, -4)]
    assert found.sections[DATA].data == b""
    assert found.sections[DATA].size == 16
