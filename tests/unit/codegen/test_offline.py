"""Generated kernels compiled without a GPU: tensor cores used, no spills in loops, limits kept."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from unit.codegen.kernels import row_kernel

from attir.codegen.triton import emit_kernel
from attir.compiler.attention_cases import Case, Shape
from attir.compiler.kernels import build_kernel, compile_site
from attir.compiler.offline import compile_offline
from attir.compiler.options import Options
from attir.compiler.sass import find_loops, parse_instructions, working_loops
from attir.ir.attributes import bf16, f16, f32
from attir.ir.builder import Builder
from attir.ir.core import Value
from attir.ir.diagnostics import CompileError
from attir.ir.dialects import arith
from attir.ir.dialects import math as math_dialect

FUNCTIONS = (
    math_dialect.ExpOp, math_dialect.Exp2Op, math_dialect.ExpM1Op, math_dialect.LogOp, math_dialect.Log2Op,
    math_dialect.Log1POp, math_dialect.TanhOp, math_dialect.SqrtOp, math_dialect.RsqrtOp, math_dialect.AbsFOp,
    math_dialect.SinOp, math_dialect.CosOp, math_dialect.ErfOp, math_dialect.FloorOp, math_dialect.CeilOp, arith.NegFOp,
)  # fmt: skip
PAIRS = (
    arith.AddFOp, arith.SubFOp, arith.MulFOp, arith.DivFOp, arith.RemFOp, arith.MaximumFOp, arith.MinimumFOp,
    math_dialect.PowFOp,
)  # fmt: skip


@pytest.mark.parametrize(
    ("case", "target", "opcode"),
    [
        (Case(f16, 64, form="causal"), "sm_90", "HGMMA"),
        (Case(bf16, 80, form="alibi"), "sm_80", "HMMA"),
        (Case(f16, 64, form="softcap"), "gfx942", "v_mfma"),
    ],
    ids=["sm_90", "sm_80", "gfx942"],
)
def test_attention_uses_tensor_cores_and_keeps_its_loops_free_of_spills(case: Case, target: str, opcode: str) -> None:
    compiled = compile_offline(build_kernel(case.module(), target).triton, target)
    assert compiled.matrix_instructions[opcode] > 0
    assert compiled.loop_spills == 0
    assert compiled.registers > 0 and compiled.shared > 0
    assert str(compiled.registers) in compiled.summary and opcode in compiled.summary


def test_stages_can_be_had_by_name_and_others_are_refused() -> None:
    compiled = compile_offline(build_kernel(Case(f16, 64, form="causal").module(), "sm_90").triton, "sm_90")
    ptx = compiled.emit("ptx")
    assert isinstance(ptx, str) and "wgmma" in ptx
    assert isinstance(compiled.emit("cubin"), bytes)
    with pytest.raises(CompileError, match="sm_90 has no stage 'hsaco'; expected ttir, ttgir, llir, ptx, cubin"):
        compiled.emit("hsaco")


def test_every_function_of_floats_is_accepted_by_the_real_compiler() -> None:
    """One kernel with all of them: what the interpreter runs, the compiler must take too."""

    def body(builder: Builder, tiles: list[Value]) -> Value:
        value, other = tiles
        for kind in FUNCTIONS:
            value = builder.unary(kind, value)
        for kind in PAIRS:
            value = builder.binary(kind, value, other)
        return value

    compiled = compile_offline(emit_kernel(row_kernel("functions", [f32, f32], f32, body)), "sm_80")
    assert "cubin" in compiled.assembly


def test_what_does_not_fit_shared_memory_is_refused_before_any_launch() -> None:
    kernel = build_kernel(Case(f16, 256, form="none").module(), "sm_90").triton
    with pytest.raises(CompileError, match=r"needs \d+ B of shared memory, sm_90 has 232448"):
        compile_offline(replace(kernel, num_stages=kernel.num_stages + 4), "sm_90")
    with pytest.raises(CompileError, match=r"needs \d+ B of shared memory \(1234 were predicted\), sm_90 has 232448"):
        compile_offline(replace(kernel, num_stages=kernel.num_stages + 4), "sm_90", 1234)


def test_compiler_failures_are_one_message() -> None:
    kernel = build_kernel(Case(f16, 64).module(), "sm_90").triton
    broken = replace(kernel, source=kernel.source.replace("tl.exp2(", "tl.no_such_function("))
    with pytest.raises(CompileError, match="Triton could not compile kernel 'attention' for sm_90"):
        compile_offline(broken, "sm_90")
    with pytest.raises(CompileError, match="sm_12"):
        compile_offline(kernel, "sm_12")


def test_compiling_and_interpreting_share_a_process() -> None:
    """The interpreter switches Triton's language over and back; compilation must not notice."""
    case = Case(f32, 16, form="causal")
    q, k, v, captures = case.tensors(Shape(queries=20, keys=20))
    kernel = build_kernel(case.module(), "sm_80").triton
    results: list[torch.Tensor] = []
    for _ in range(2):
        results.append(compile_site(case.module(), Options(backend="interpret")).runner(q, k, v, captures, True)[0])
        assert compile_offline(kernel, "sm_80").registers > 0
    assert torch.equal(results[0], results[1])


LISTING = """
        /*0000*/                   IMAD.MOV.U32 R1, RZ, RZ, c[0x0][0x28] ;
        /*0010*/                   LDL R2, [R1] ;
        /*0020*/                   HGMMA.64x64x16.F32 R24, gdesc[UR8], R24 ;
        /*0030*/                   MUFU.EX2 R2, R2 ;
        /*0040*/              @!P0 BRA 0x20 ;
        /*0050*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*0060*/               @P1 BRA 0x10 ;
        /*0070*/                   EXIT ;
"""


def test_loops_are_read_from_branches_that_go_back() -> None:
    instructions = parse_instructions(LISTING)
    assert [i.opcode for i in instructions] == ["IMAD", "LDL", "HGMMA", "MUFU", "BRA", "BAR", "BRA", "EXIT"]
    assert sorted(len(loop) for loop in find_loops(instructions)) == [3, 6]
    (inner,) = working_loops(instructions)
    assert len(inner) == 3 and inner.matrix_instructions == 1 and inner.spills == 0
    assert max(find_loops(instructions), key=len).spills == 1
