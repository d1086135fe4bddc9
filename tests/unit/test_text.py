"""The text of attributes, and the errors of verifier and parser as a person sees them."""

from __future__ import annotations

import pytest

from attir.ir.attributes import FloatAttr, FloatType, bf16, f16, f32, f64, float_bits
from attir.ir.diagnostics import CompileError
from attir.ir.parser import parse_module
from attir.ir.printer import print_operation
from attir.ir.verifier import verify


@pytest.mark.parametrize(
    ("value", "type_", "text"),
    [
        (1e-5, f32, "1.0e-05 : f32"),
        (0.1, f32, "1.0e-01 : f32"),
        (1 / 3, f32, "3.3333334e-01 : f32"),
        (1 / 3, f16, "3.333e-01 : f16"),
        (1 / 3, bf16, "3.34e-01 : bf16"),
        (1.0, f64, "1.0 : f64"),
        (float("-inf"), f32, "0xFF800000 : f32"),
        (float("inf"), f16, "0x7C00 : f16"),
        (float("nan"), bf16, "0x7FC0 : bf16"),
        (-0.0, f32, "-0.0 : f32"),
        (1e39, f32, "0x7F800000 : f32"),
    ],
)
def test_floats_print_the_shortest_digits_that_read_back(value: float, type_: FloatType, text: str) -> None:
    attr = FloatAttr(value, type_)
    assert str(attr) == text
    module = parse_module(f'%0 = "arith.constant"() <{{value = {text}}}> : () -> {type_}\n')
    (op,) = [op for op in module.walk() if op.name == "arith.constant"]
    found = op.properties["value"]
    assert isinstance(found, FloatAttr)
    assert float_bits(found.value, type_) == float_bits(attr.value, type_)


def test_all_errors_of_a_module_are_reported_with_carets() -> None:
    text = """"func.func"() <{function_type = (f32, f64) -> (), sym_name = "f"}> ({
^bb0(%x: f32, %y: f64):
  %a = "arith.addf"(%x, %y) : (f32, f64) -> f32
  %b = "attn.atention"() : () -> f32
  %c = "math.exp"(%x) : (f32) -> f64
  "func.return"() : () -> ()
}) : () -> ()
"""
    with pytest.raises(CompileError) as caught:
        verify(parse_module(text, "model.mlir"), text)
    said = str(caught.value)
    assert len(caught.value.diagnostics) == 3
    assert "model.mlir:3:" in said and "model.mlir:4:" in said and "model.mlir:5:" in said
    assert '    %a = "arith.addf"(%x, %y)' in said.replace("      %a", "    %a") and "^" in said
    assert "did you mean 'attn.attention'?" in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('"a.b"(%x) : (f32) -> ()', "%x"),
        ('%0 = "arith.constant"() <{value = 1e-5 : f32}> : () -> f32', "1e-5"),
        ('"a.b"() {some-key = 1 : i64} : () -> ()', "some-key"),
        ('%0 = "a.b"() : () -> f32\n%0 = "a.b"() : () -> f32', "%0"),
        ('"a.b"() : () -> tensor<2x>', "tensor"),
        ('"a.b"() : ()', "expected"),
    ],
)
def test_broken_text_is_refused_where_it_breaks(text: str, message: str) -> None:
    with pytest.raises(CompileError) as caught:
        parse_module(text, "broken.mlir")
    assert message in str(caught.value) and "broken.mlir:" in str(caught.value)
    assert "Token" not in str(caught.value) and "lark" not in str(caught.value)


def test_locations_travel_through_text() -> None:
    text = '"builtin.module"() ({\n  "aten.op"() : () -> () loc("model.py":12:0)\n}) : () -> ()\n'
    module = parse_module(text)
    (op,) = [op for op in module.walk() if op.name == "aten.op"]
    assert (op.location.file, op.location.line) == ("model.py", 12)
    assert print_operation(module, locations=True).count('loc("model.py":12:0)') == 1
