"""Kernels that skip tiles, and the small ones that run before them, compiled without a GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attir.codegen.triton.layout import COLUMNS, wrapped
from attir.compiler.attention_cases import Case
from attir.compiler.kernels import build_kernel
from attir.compiler.offline import compile_offline
from attir.ir.attributes import FloatAttr, f16, f32
from attir.ir.dialects.attn import AttentionOp
from benchmarks.mask_families import MaskCase

LONG = MaskCase(f16, 64, unit=512, lse=False)


@pytest.mark.parametrize(
    ("form", "target", "opcode"),
    [
        ("sink and window", "sm_80", "HMMA"),
        ("sink and window", "sm_90", "HGMMA"),
        ("causal documents", "sm_80", "HMMA"),
        ("causal documents", "sm_90", "HGMMA"),
        ("block table", "sm_80", "HMMA"),
    ],
)
def test_kernels_that_skip_tiles_use_tensor_cores_without_spills(form: str, target: str, opcode: str) -> None:
    kernel = build_kernel(replace(LONG, form=form).module(), target)
    compiled = compile_offline(kernel.triton, target)
    assert compiled.matrix_instructions[opcode] > 0 and compiled.loop_spills == 0
    tables = dict(zip(kernel.lowered.roles, kernel.modules, strict=True)).get("tables")
    assert (tables is not None) == (form == "causal documents")
    if tables is not None:
        assert compile_offline(tables, target).loop_spills == 0
        assert tables.source in kernel.source


TILES = (("block_m", 128), ("block_n", 128), ("num_warps", 8), ("num_stages", 2), ("descriptors", "device"))


@pytest.mark.parametrize("width", [64, 128])
def test_a_list_costs_little_beside_all_tiles_in_order(width: int) -> None:
    """The loop over full tiles against that of attention without a mask; loads of both are made ahead."""
    dense, listed = (
        compile_offline(build_kernel(case.module(), "sm_90", wishes=TILES).triton, "sm_90")
        for case in (Case(f16, width, lse=False), replace(LONG, width=width, form="documents"))
    )
    assert len(listed.loops) == 2 and listed.loops[0] <= 1.06 * dense.loops[0]
    assert listed.spills == 0 and abs(listed.shared - dense.shared) <= 1024
    assembly = str(listed.assembly["ptx"])
    assert "cp.async.bulk.tensor" in assembly


def test_the_kernel_that_writes_lists_needs_next_to_nothing() -> None:
    kernel = build_kernel(replace(LONG, form="causal documents").module(), "sm_90")
    (lists,) = [m for m, role in zip(kernel.modules, kernel.lowered.roles, strict=True) if role == "list"]
    compiled = compile_offline(lists, "sm_90")
    assert lists.num_warps == 1 and compiled.spills == 0 and compiled.registers <= 64


def test_a_second_look_at_empty_rows_compiles() -> None:
    module = replace(LONG, form="left padding").module()
    attention = next(AttentionOp(op) for op in module.walk() if AttentionOp.match(op))
    attention.empty_score = FloatAttr(-1e9, f32)
    compiled = compile_offline(build_kernel(module, "sm_90").triton, "sm_90")
    assert compiled.matrix_instructions["HGMMA"] > 0 and compiled.loop_spills == 0


def test_long_sums_are_broken_at_their_terms() -> None:
    terms = [f"pointer_{i} * stride_of_the_axis_{i}" for i in range(5)]
    for line in (f"    place = {' + '.join(terms)}", f"    found = tl.load({' + '.join(terms)})"):
        lines = wrapped(line)
        assert len(lines) == 7 and max(map(len, lines)) <= COLUMNS
        assert "".join(part.strip() for part in lines).replace("+ ", "") == line.strip().replace(" + ", "").replace(
            "place = ", "place = ("
        ) + (")" if "place" in line else "")
