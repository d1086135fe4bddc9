"""The harness of benchmarks/quantization.py compares what it says it does; no time is judged."""

from __future__ import annotations

import pytest
import torch

from attir.compiler.attention_cases import Case, Shape
from attir.compiler.native_support import native_problem
from attir.compiler.schemes import scheme
from attir.ir.attributes import bf16, f32
from benchmarks import quantization
from benchmarks.grouped import Settings
from benchmarks.quantized import cache_rows, error_rows
from benchmarks.quantized.programs import Program, exact, relative

pytestmark = pytest.mark.skipif(bool(native_problem()), reason="native kernels do not run here")


def test_the_kernel_is_called_on_what_the_whole_program_quantises() -> None:
    case = Case(dtype=f32, width=64, group=2, lse=False)
    inputs = case.tensors(Shape(heads=4, key_heads=2, queries=3, keys=130))[:3]
    program = Program.of(case, scheme("kv4"))
    q, codes, *_ = program.operands(inputs)
    assert torch.equal(q, inputs[0]) and codes.dtype == torch.int8 and codes.shape == (1, 2, 130, 32)
    assert torch.equal(program.kernel_call(inputs)(), program.call(inputs)())
    meant = program.meant(inputs)
    assert relative(program.call(inputs)(), exact(case, meant)) < 1e-3 < relative(meant[1], inputs[1].double())


def test_an_exact_program_quantises_nothing() -> None:
    case = Case(dtype=bf16, width=64, lse=False)
    inputs = case.tensors(Shape(queries=3, keys=20))[:3]
    program = Program.of(case, None)
    assert program.operands(inputs) == list(inputs)
    assert all(torch.equal(x, y.double()) for x, y in zip(program.meant(inputs), inputs, strict=True))


def test_an_error_row_is_held_where_the_kernel_loses_no_more_than_its_storage() -> None:
    row = error_rows.cache_error(4, f32, 1, keys=200)
    assert row.held and 0.02 < float(row.figures["of its storage in float64"]) < 0.2
    assert row.figures["multiple"] == pytest.approx(1.0, abs=0.05)


def test_bytes_are_counted_by_a_formula_of_its_own() -> None:
    rows = list(cache_rows.size(Settings(quick=True, lengths=(64, 70))))
    assert len(rows) == 6 and all(row.held for row in rows)


def test_every_bar_has_a_group() -> None:
    assert set(quantization.GROUPS) == {"products", "caches", "decode", "prefill", "bytes", "search", "widths"}
