"""Laws of the text: what is printed reads back as itself, and broken text gives only our error."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle.real_parser import assert_accepted

from attir.ir.attributes import (
    ArrayAttr,
    Attribute,
    DenseArrayAttr,
    DialectAttr,
    DictAttr,
    FloatAttr,
    FunctionType,
    IntegerAttr,
    StringAttr,
    Symbol,
    SymbolRefAttr,
    TensorType,
    Type,
    UnitAttr,
    bf16,
    f16,
    f32,
    f64,
    i1,
    i8,
    i32,
    i64,
    index,
)
from attir.ir.core import Block, Operation, Region
from attir.ir.diagnostics import CompileError
from attir.ir.parser import parse_module
from attir.ir.printer import print_operation
from attir.ir.verifier import verify

ROOT = Path(__file__).resolve().parents[1]
CORPUS = [p.read_text() for p in sorted((ROOT / "check").rglob("*.mlir"))]

scalars = st.sampled_from([i1, i8, i32, i64, index, f16, bf16, f32, f64])
symbols = st.sampled_from(["s0", "s1", "8*s0", "s0 + 1", "s0 floordiv 2"]).map(Symbol)
tensors = st.builds(TensorType, st.lists(st.integers(0, 70) | symbols | st.none(), max_size=4).map(tuple), scalars)
types: st.SearchStrategy[Type] = scalars | tensors
some_types = st.lists(types, max_size=2).map(tuple)
keys = st.from_regex(r"[a-z_][a-z0-9_.]{0,8}", fullmatch=True).filter(
    lambda k: k not in ("true", "false", "unit", "loc", "dense", "array", "none", "index")
)
integers = st.builds(IntegerAttr, st.integers(-(2**31), 2**31 - 1), st.sampled_from([i32, i64, index]))
floats = st.builds(FloatAttr, st.floats(), st.sampled_from([f16, bf16, f32, f64]))
strings = st.builds(StringAttr, st.text(max_size=8).filter(lambda t: t.isprintable() or t.isascii()))
leaves: st.SearchStrategy[Attribute] = (
    integers
    | floats
    | strings
    | st.just(UnitAttr())
    | types
    | st.builds(DenseArrayAttr, st.lists(st.integers(-9, 9), max_size=3).map(tuple))
    | st.builds(SymbolRefAttr, keys)
    | st.builds(FunctionType, some_types, some_types)
    | st.just(DialectAttr("aten.device", "cpu"))
)
attributes = st.recursive(
    leaves,
    lambda inner: (
        st.builds(ArrayAttr, st.lists(inner.filter(lambda a: a != UnitAttr()), max_size=3).map(tuple))
        | st.builds(DictAttr.of, st.dictionaries(keys, inner, max_size=3))
    ),
    max_leaves=6,
)


@st.composite
def modules(draw: st.DrawFn) -> Operation:
    """A module of operations of an open dialect that use each other's results."""
    block = Block()
    for number in range(draw(st.integers(1, 5))):
        known = [r for op in block.ops for r in op.results]
        operands = draw(st.lists(st.sampled_from(known), max_size=3)) if known else []
        regions = [Region([Block.with_arguments(draw(st.lists(types, max_size=2)))])] if draw(st.booleans()) else []
        block.append(
            Operation.create(
                f"aten.op{number}",
                operands,
                draw(st.lists(types, max_size=2)),
                draw(st.dictionaries(keys, attributes, max_size=3)),
                regions,
                draw(st.dictionaries(keys, attributes, max_size=2)),
            )
        )
    return Operation.create("builtin.module", regions=[Region([block])])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(modules())
def test_printed_modules_read_back_as_themselves(module: Operation) -> None:
    text = print_operation(module)
    assert print_operation(parse_module(text)) == text
    assert_accepted(text)


TOKENS = re.findall(r'"[^"]*"|[\w.%@#!]+|\S', "\n".join(CORPUS))
EXTRA = [
    "%",
    '"',
    "<{",
    "}>",
    "(",
    ")",
    "{",
    "}",
    "->",
    ":",
    "=",
    "0x",
    "1e5",
    "^bb0",
    "#attir.sym<",
    "tensor<",
    "\x00",
    "é",
]


@st.composite
def broken_texts(draw: st.DrawFn) -> str:
    """A real file with a few cuts, repeats and foreign pieces."""
    text = draw(st.sampled_from(CORPUS))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 12)))
        piece = draw(st.sampled_from(["", *EXTRA]) | st.sampled_from(TOKENS) | st.text(max_size=3))
        text = text[:start] + piece + text[end:]
    return text


@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(broken_texts())
def test_broken_text_gives_only_our_error(text: str) -> None:
    try:
        module = parse_module(text, "broken.mlir")
        verify(module, text)
    except CompileError as problem:
        assert str(problem).strip()
        assert all(d.message for d in problem.diagnostics)
    else:
        assert print_operation(parse_module(print_operation(module))) == print_operation(module)


@pytest.mark.parametrize("text", ["", "%", "(" * 3000, '"a"(' + "%x, " * 2000, "{" * 5000, "\x00", '"' * 999])
def test_extreme_text_gives_only_our_error(text: str) -> None:
    try:
        parse_module(text)
    except CompileError as problem:
        assert str(problem).strip()
