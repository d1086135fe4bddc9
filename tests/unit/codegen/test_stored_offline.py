"""Kernels over operands in few bits, compiled without a GPU: which tensor cores they use, no spills, no conversions."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from numeric.stored_cases import StoredCase

from attir.compiler.gluon import WISHES, gluon_kernel
from attir.compiler.kernels import Kernel, Wishes, build_kernel
from attir.compiler.offline import compile_offline
from attir.ir.attributes import FloatType, bf16, f16
from attir.ir.diagnostics import CompileError
from attir.ir.storage import Storage

WIDTH = 128
BLOCKS = Storage(tokens=64, width=WIDTH)
FLOAT8 = replace(BLOCKS, kind="f8E4M3FN")


def kivi(bits: int, width: int = WIDTH) -> dict[str, Storage]:
    common = Storage(bits=bits, signed=False, zero=True, width=width)
    return {"key": replace(common, tokens=64, channels=1), "value": replace(common, tokens=1, channels=64)}


def tokens(storage: Storage) -> dict[str, Storage]:
    return {"key": storage, "value": storage}


INT8 = {"query": BLOCKS, "key": BLOCKS}
FP8 = {"query": FLOAT8, "key": FLOAT8, "value": replace(FLOAT8, tokens=0)}


@dataclass(frozen=True)
class Compiled:
    """What is compiled, and the tensor-core instructions that all its loops must have."""

    storages: dict[str, Storage]
    opcodes: tuple[str, ...]
    rows: int = 0
    target: str = "sm_90"
    width: int = WIDTH
    dtype: FloatType = f16
    converted: bool = False

    def kernel(self, wishes: Wishes = ()) -> Kernel:
        case = StoredCase(d=self.width, group=4, dtype=self.dtype, storages=self.storages)
        return build_kernel(case.module(), self.target, self.rows, wishes)


CASES: dict[str, Compiled] = {
    "int8 products": Compiled(INT8, ("IGMMA", "HGMMA")),
    "fp8 products": Compiled(FP8, ("QGMMA",)),
    "int4 decode": Compiled(kivi(4), ("HMMA",), rows=16),
    "int4 prefill": Compiled(kivi(4), ("HGMMA",)),
}
SLOW: dict[str, Compiled] = {
    "int8 products, sm_80": Compiled(INT8, ("IMMA", "HMMA"), target="sm_80", converted=True),
    "int8 products, decode": Compiled(INT8, ("IMMA", "HMMA"), rows=16),
    "int8 decode": Compiled(tokens(Storage(width=WIDTH)), ("HMMA",), rows=16),
    "int8 prefill": Compiled(tokens(Storage(width=WIDTH)), ("HGMMA",)),
    "int2 decode": Compiled(kivi(2), ("HMMA",), rows=16),
    "int2 prefill": Compiled(kivi(2), ("HGMMA",)),
    "int3 decode": Compiled(kivi(3), ("HMMA",), rows=16),
    "int4 decode, sm_80": Compiled(kivi(4), ("HMMA",), rows=16, target="sm_80"),
    "int4 prefill, sm_80": Compiled(kivi(4), ("HMMA",), target="sm_80"),
    "int4 decode, bf16": Compiled(kivi(4), ("HMMA",), rows=16, dtype=bf16),
    "int4 prefill, 64 channels": Compiled(kivi(4, 64), ("HGMMA",), width=64),
    "int4 prefill, 80 channels": Compiled(kivi(4, 80), ("HGMMA",), width=80),
    "8-bit floats, decode": Compiled(tokens(Storage(kind="f8E4M3FN", width=WIDTH)), ("HMMA",), rows=16),
    "8-bit floats, prefill": Compiled(tokens(Storage(kind="f8E4M3FN", width=WIDTH)), ("HGMMA",)),
}
KERNELS = [
    *(pytest.param(case, id=name) for name, case in CASES.items()),
    *(pytest.param(case, id=name, marks=pytest.mark.slow) for name, case in SLOW.items()),
]


@pytest.mark.parametrize("case", KERNELS)
def test_loops_use_tensor_cores_and_neither_spill_nor_convert(case: Compiled) -> None:
    """Sums of products of bytes are numbers of 32 bits, which sm_80 converts by I2F; codes never are.

    Predicted shared memory is an upper bound: what shares its place is known to the compiler alone.
    """
    kernel = case.kernel()
    found = compile_offline(kernel.triton, case.target)
    assert found.sass is not None and found.sass.loops
    for loop in found.sass.loops:
        assert all(loop.opcodes[opcode] > 0 for opcode in case.opcodes), loop.opcodes
        assert loop.spills == 0
        assert case.converted or loop.opcodes["I2F"] == 0
    assert kernel.lowered.shared_memory is not None and found.shared <= kernel.lowered.shared_memory


def test_tiles_that_lie_as_they_are_read_come_through_descriptors() -> None:
    for storages in (INT8, FP8, tokens(Storage(width=WIDTH))):
        assert Compiled(storages, ()).kernel().plan["descriptors"] == "device"
    assert not Compiled(kivi(4), ()).kernel().plan.get("descriptors")
    with pytest.raises(CompileError, match=r"'key' is stored as uint4 .* whose bytes are read through pointers"):
        Compiled(kivi(4), ()).kernel((("descriptors", "device"),))


@pytest.mark.parametrize(
    ("case", "wish", "message"),
    [
        (Compiled(FP8, (), target="sm_80"), (), "stored as f8E4M3FN.* but sm_80 has no 8-bit floats of that kind"),
        (Compiled(INT8, ()), ("specialised", 1), "cannot have specialised warps: q is stored as int8"),
        (Compiled(kivi(4), (), rows=16), ("swap", 1), "cannot have swapped operands: k is stored as uint4"),
    ],
    ids=["8-bit floats", "specialised warps", "swapped operands"],
)
def test_what_a_device_or_a_kind_of_kernel_cannot_read_is_refused_in_words(
    case: Compiled, wish: tuple[str, int], message: str
) -> None:
    with pytest.raises(CompileError, match=message):
        case.kernel((wish,) if wish else ())


@pytest.mark.parametrize("storages", [INT8, kivi(4)], ids=["products of bytes", "packed codes"])
def test_gluon_kernels_read_no_codes(storages: dict[str, Storage]) -> None:
    wishes = WISHES if storages is INT8 else tuple(w for w in WISHES if w[0] != "block_n")
    reason = gluon_kernel(Compiled(storages, ()).kernel(wishes).lowered)
    assert isinstance(reason, str) and "it reads codes of tensor<" in reason
