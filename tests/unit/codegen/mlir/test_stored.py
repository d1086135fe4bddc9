"""Operands in few bits as MLIR text: what unpacks codes, what multiplies bytes, and what each target is told."""

from __future__ import annotations

from dataclasses import replace

import pytest
from numeric.stored_cases import StoredCase
from unit.codegen.mlir.test_emit import verify

from attir.codegen.mlir import NativeModule, emit_module
from attir.compiler.lowering import lower
from attir.ir.diagnostics import CompileError
from attir.ir.storage import Storage

CODES = Storage(bits=4, signed=False, zero=True, width=64)
KIVI = {"key": replace(CODES, tokens=64, channels=1), "value": replace(CODES, channels=64)}
BYTES = {"query": Storage(width=64, tokens=64), "key": Storage(width=64, tokens=64)}
DOT = "llvm.x86.avx512.vpdpbusd"


def emitted(
    storages: dict[str, Storage], target: str = "avx512", rows: int = 0, *, width: int = 64, byte_dots: bool = True
) -> NativeModule:
    case = StoredCase(d=width, storages=storages)
    return emit_module(lower(case.module(), target, rows).kernels, byte_dots=byte_dots)


@pytest.mark.parametrize("rows", [0, 1])
@pytest.mark.parametrize("target", ["avx512", "avx2"])
@pytest.mark.parametrize("storages", [KIVI, BYTES], ids=["packed", "bytes"])
def test_kernels_are_valid_for_the_real_parser(storages: dict[str, Storage], target: str, rows: int) -> None:
    verify(emitted(storages, target, rows).text)


def test_codes_of_four_bits_are_looked_up_in_vectors_of_16() -> None:
    assert "llvm.x86.avx512.permvar.sf.512" in emitted(KIVI, "avx512", 1).text
    assert "llvm.x86.avx512" not in emitted(KIVI, "avx2", 1).text


def test_bytes_that_share_codes_are_loaded_once() -> None:
    """64 channels of 4 bits are 32 bytes: two loads for the four vectors of one row of values, and for each key."""
    text = emitted(KIVI, "avx512", 1).text
    whole_tiles = text[text.index("// key tiles that are kept whole") : text.index("// key tiles that the mask")]
    values = whole_tiles[whole_tiles.rindex("terms a sum") :]
    assert values.count("-> vector<16xi8>") == 2
    assert values.count("permvar") == 4


@pytest.mark.parametrize(("storages", "computed"), [(KIVI, False), ({"key": replace(CODES, channels=32)}, True)])
def test_scales_of_groups_of_tokens_change_no_key(storages: dict[str, Storage], computed: bool) -> None:
    """They go into q and the weights; where each key has several of its own, keys are computed row by row."""
    assert ("rows of 64, computed" in emitted(storages, "avx512", 1).text) == computed


@pytest.mark.parametrize(("target", "bits"), [("avx512", 512), ("avx2", 256)])
@pytest.mark.parametrize("rows", [0, 4])
def test_bytes_are_multiplied_by_one_instruction(target: str, bits: int, rows: int) -> None:
    assert f"{DOT}.{bits}" in emitted(BYTES, target, rows).text
    assert DOT not in emitted(BYTES, target, rows, byte_dots=False).text


def test_only_kernels_that_use_it_ask_for_the_extension() -> None:
    assert "+avxvnni" in emitted(BYTES, "avx2").text
    for text in (emitted(BYTES, "avx2", byte_dots=False).text, emitted(KIVI, "avx2").text, emitted(BYTES).text):
        assert "+avxvnni" not in text


def test_sums_that_floats_would_round_are_refused() -> None:
    wide = {name: Storage(width=1032, tokens=64) for name in ("query", "key")}
    with pytest.raises(CompileError, match="at most 1024 terms on this CPU, but there are 1032"):
        emitted(wide, width=1032, byte_dots=False)
