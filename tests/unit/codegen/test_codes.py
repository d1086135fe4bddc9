"""Packed integers of every width as Triton text, in its interpreter, against the reference interpreter."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from unit.codegen.kernels import kernel_of, load, run

from attir.codegen.triton import emit_kernel
from attir.compiler.offline import compile_offline
from attir.ir.attributes import DenseArrayAttr, IntegerAttr, TensorType, Type, bf16, f16, f32, i1, i8, i32
from attir.ir.builder import Builder
from attir.ir.core import Operation, Value
from attir.ir.diagnostics import CompileError
from attir.ir.dialects import tile
from attir.ir.dialects.arith import SIToFPOp
from attir.ir.interpreter.storage import unpack
from attir.ir.storage import Storage

TORCH: dict[Type, torch.dtype] = {f16: torch.float16, bf16: torch.bfloat16, f32: torch.float32, i8: torch.int8}
ROWS, TOKENS = 16, 37


def codes_kernel(storage: Storage, element: Type, pieces: tuple[tuple[int, int], ...], start: int) -> Operation:
    """Store the codes of ROWS tokens from `start` on, in tiles of (first, width) channels."""
    packed = TensorType((TOKENS, storage.stored_width), i8)
    result = TensorType((ROWS, pieces[-1][0] + pieces[-1][1]), element)

    def body(builder: Builder, arguments: list[Value]) -> None:
        source, target = arguments
        properties = {
            "bits": IntegerAttr(storage.bits), "signed": IntegerAttr(int(storage.signed), i1),
            "width": IntegerAttr(storage.width), "boundary": DenseArrayAttr((0,)),
        }  # fmt: skip
        begin, zero = builder.index(start), builder.index(0)
        for first, width in pieces:
            at, type_ = builder.index(first), TensorType((ROWS, width), element)
            codes = builder.create(tile.LoadCodesOp, [source, begin, at], [type_], properties, name="codes").out
            builder.create(tile.StoreOp, [codes, target, zero, at], [], {"boundary": DenseArrayAttr(())})

    return kernel_of("unpacked", [packed, result], body)


def stored_bytes(storage: Storage) -> torch.Tensor:
    generator = np.random.default_rng(storage.bits)
    return torch.as_tensor(generator.integers(-128, 128, (TOKENS, storage.stored_width)).astype(np.int8))


def check(storage: Storage, element: Type, pieces: tuple[tuple[int, int], ...], start: int) -> str:
    """Compare all tiles with the reference; what lies outside must be 0."""
    packed = stored_bytes(storage)
    found = torch.full((ROWS, pieces[-1][0] + pieces[-1][1]), 99, dtype=TORCH[element])
    text = run(codes_kernel(storage, element, pieces, start), packed, found)
    wanted = torch.zeros(found.shape)
    inside = unpack(packed.numpy()[start : start + ROWS], storage, ROWS)
    wanted[: inside.shape[0], : inside.shape[1]] = torch.as_tensor(inside.astype(np.float32))
    assert torch.equal(found.float(), wanted)
    return text


@pytest.mark.parametrize(("bits", "signed"), [(b, s) for b, s in itertools.product(range(1, 9), (True, False))])
def test_codes_of_every_width_are_those_of_the_reference(bits: int, signed: bool) -> None:
    """Planes of one byte, whole rows, widths that need padding, and rows beyond the end."""
    for (width, pieces), element, start in itertools.product(
        [(64, ((0, 32), (32, 32))), (64, ((0, 64),)), (33, ((0, 32), (32, 16))), (80, ((0, 64), (64, 16)))],
        (f16, bf16, f32),
        (8, 32),
    ):
        check(Storage(bits=bits, signed=signed, zero=True, width=width), element, pieces, start)


@pytest.mark.parametrize("bits", [2, 4, 5, 7])
def test_codes_may_stay_integers_of_one_byte(bits: int) -> None:
    check(Storage(bits=bits, width=64), i8, ((0, 64),), 32)


@pytest.mark.parametrize(("bits", "loads"), [(4, 1), (2, 1), (6, 3)])
def test_tiles_of_the_same_bytes_share_their_load(bits: int, loads: int) -> None:
    """Four tiles of 32 channels lie in 64 bytes as two rows of 32, in 32, and for 6 bits in 64 and 32."""
    pieces = tuple((first, 32) for first in range(0, 128, 32))
    text = check(Storage(bits=bits, width=128), f16, pieces, 0)
    assert text.count("tl.load(") == loads + (bits == 4)
    assert "byte_columns" not in text


def test_no_integer_is_converted_to_a_float() -> None:
    for element, function in ((f16, "code_to_float16"), (bf16, "code_to_bfloat16"), (f32, "code_to_float32")):
        text = check(Storage(bits=4, width=64), element, ((0, 32), (32, 32)), 0)
        assert f"{function}(" in text and text.count(".to(tl.float32)") == 0


@pytest.mark.parametrize("element", [f16, bf16, f32])
def test_tiles_of_whole_bytes_are_converted_exactly(element: Type) -> None:
    types = [TensorType((16, 16), i8), TensorType((16, 16), element)]

    def body(builder: Builder, arguments: list[Value]) -> None:
        zero = builder.index(0)
        tile_ = load(builder, arguments[0], [zero, zero], (16, 16))
        floats = builder.create(SIToFPOp, [tile_], [types[1]]).out
        builder.create(tile.StoreOp, [floats, arguments[1], zero, zero])

    numbers = torch.arange(-128, 128).to(torch.int8).reshape(16, 16)
    found = torch.zeros(16, 16, dtype=TORCH[element])
    text = run(kernel_of("converted", types, body), numbers, found)
    assert torch.equal(found.float(), numbers.float())
    assert "code_to_" in text


def products_kernel(queries: int, keys: int, width: int) -> Operation:
    """Exact products of bytes, (queries, width) times the transpose of (keys, width)."""
    element, result = i8, TensorType((queries, keys), f32)
    types = [TensorType((queries, width), element), TensorType((keys, width), element), result]

    def body(builder: Builder, arguments: list[Value]) -> None:
        zero = builder.index(0)
        a, b = (load(builder, x, [zero, zero], (n, width)) for x, n in zip(arguments[:2], (queries, keys), strict=True))
        b = builder.create(tile.TransposeOp, [b], [TensorType((width, keys), i8)]).out
        nothing = builder.constant(0, TensorType((queries, keys), i32))
        total = builder.create(tile.DotOp, [a, b, nothing], [nothing.type]).out
        total = builder.create(tile.DotOp, [a, b, total], [nothing.type]).out
        floats = builder.create(SIToFPOp, [total], [result]).out
        builder.create(tile.StoreOp, [floats, arguments[2], zero, zero])

    return kernel_of("products", types, body)


def test_products_of_bytes_are_summed_exactly() -> None:
    a, b = (
        torch.randint(-127, 128, (n, 64), generator=torch.Generator().manual_seed(n)).to(torch.int8) for n in (16, 32)
    )
    found = torch.zeros(16, 32)
    text = run(products_kernel(16, 32, 64), a, b, found)
    assert torch.equal(found, 2 * (a.float() @ b.float().T))
    assert "out_dtype=tl.int32" in text


@pytest.mark.parametrize(("target", "opcode"), [("sm_90", "IGMMA"), ("sm_80", "IMMA")])
def test_products_of_bytes_run_on_tensor_cores(target: str, opcode: str) -> None:
    compiled = compile_offline(emit_kernel(products_kernel(64, 64, 64)), target)
    assert compiled.matrix_instructions[opcode] > 0
    assert compiled.spills == 0


def test_a_tile_must_begin_at_a_constant_channel() -> None:
    storage = Storage(bits=4, width=64)
    kernel = codes_kernel(storage, f16, ((0, 64),), 0)
    (codes,) = (op for op in kernel.walk() if op.name == "tile.load_codes")
    builder = Builder.before(codes)
    codes.set_operand(2, builder.create(tile.ProgramIdOp, [], [codes.operands[2].type], {"axis": IntegerAttr(0)}).out)
    with pytest.raises(CompileError, match="must begin at a constant channel"):
        emit_kernel(kernel)
