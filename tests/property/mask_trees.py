"""Random mask regions, and the masks they make as the interpreter runs them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from attir.ir.attributes import Symbol, TensorType, f32, i1, i32, i64
from attir.ir.builder import Builder
from attir.ir.core import Block, Region, Value
from attir.ir.define import Op
from attir.ir.dialects import arith, math
from attir.ir.dialects.attn import YieldOp, region_block
from attir.ir.dialects.tensor import ExtractOp
from attir.ir.interpreter.machine import Interpreter

Array = np.ndarray[Any, np.dtype[Any]]
Tree = tuple[Any, ...]
"""The name of a computation and what it is computed from."""

BLOCK = 4
"""Positions that share an entry of the table of blocks."""

CAPTURES = ("rows", "columns", "length", "blocks", "padding", "dense")
RELATIONS = ("eq", "ne", "slt", "sle", "sgt", "sge", "ult", "uge")
FLOAT_RELATIONS = ("olt", "oge", "oeq", "une")
_BINARY: dict[str, type[Op]] = {
    "add": arith.AddIOp,
    "sub": arith.SubIOp,
    "min": arith.MinSIOp,
    "max": arith.MaxSIOp,
    "mul": arith.MulIOp,
    "bits": arith.AndIOp,
    "floor": arith.FloorDivSIOp,
    "truncate": arith.DivSIOp,
    "remainder": arith.RemSIOp,
    "and": arith.AndIOp,
    "or": arith.OrIOp,
    "xor": arith.XOrIOp,
}

# --- strategies

leaves: st.SearchStrategy[Tree] = st.one_of(
    st.sampled_from([("m",), ("n",), ("m",), ("n",), ("h",)]),
    st.tuples(st.just("constant"), st.integers(-6, 12)),
    st.sampled_from([("rows",), ("columns",), ("length",), ("blocks",), ("packed",)]),
)


def _integers(inner: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
    divisor = st.tuples(st.just("constant"), st.integers(1, 7))
    dividing = ["floor", "floor", "truncate", "remainder", "modulo", "mul", "bits"]
    compared = st.tuples(st.just("compare"), st.sampled_from(RELATIONS), inner, inner)
    return st.one_of(
        st.tuples(st.sampled_from(["add", "sub", "sub", "min", "max"]), inner, inner),
        st.tuples(st.sampled_from(dividing), inner, divisor),
        st.tuples(st.just("mul"), inner, inner),
        st.tuples(st.just("abs"), inner),
        st.tuples(st.just("choose"), compared, inner, inner),
    )


integers: st.SearchStrategy[Tree] = st.recursive(leaves, _integers, max_leaves=4)
comparisons: st.SearchStrategy[Tree] = st.one_of(
    st.tuples(st.just("compare"), st.sampled_from(RELATIONS), integers, integers),
    st.tuples(st.just("float"), st.sampled_from(FLOAT_RELATIONS), integers, st.sampled_from([-2.5, 0.0, 3.0, 4.5])),
    st.sampled_from([("padding",), ("dense",), ("flag", True)]),
)  # fmt: skip
trees: st.SearchStrategy[Tree] = st.recursive(
    comparisons,
    lambda inner: st.one_of(
        st.tuples(st.sampled_from(["and", "and", "or", "or", "xor"]), inner, inner),
        st.tuples(st.just("not"), inner),
        st.tuples(st.just("choose"), inner, inner, inner),
    ),
    max_leaves=4,
)


# --- regions


@dataclass
class _Emitter:
    builder: Builder
    arguments: dict[str, Value]

    def emit(self, tree: Tree) -> Value:
        name, *parts = tree
        build = self.builder
        match name:
            case "m" | "n" | "h":
                return build.create(arith.IndexCastOp, [self.arguments[name]], [i64]).out
            case "constant":
                return build.constant(parts[0], i64)
            case "flag":
                return build.constant(parts[0], i1)
            case "compare":
                return self._compare(arith.CmpIOp, parts[0], self.emit(parts[1]), self.emit(parts[2]))
            case "float":
                number = build.create(arith.SIToFPOp, [self.emit(parts[1])], [f32]).out
                return self._compare(arith.CmpFOp, parts[0], number, build.constant(parts[2], f32))
            case "abs":
                return build.unary(math.AbsIOp, self.emit(parts[0]))
            case "not":
                return build.binary(arith.XOrIOp, self.emit(parts[0]), build.constant(True, i1))
            case "choose":
                condition, x, y = map(self.emit, parts)
                return build.create(arith.SelectOp, [condition, x, y], [x.type]).out
            case "modulo":
                x, y = map(self.emit, parts)
                whole = build.binary(arith.MulIOp, build.binary(arith.FloorDivSIOp, x, y), y)
                return build.binary(arith.SubIOp, x, whole)
            case _ if name in _BINARY:
                return build.binary(_BINARY[name], self.emit(parts[0]), self.emit(parts[1]))
            case _:
                return self._load(name)

    def _compare(self, kind: type[Any], predicate: str, x: Value, y: Value) -> Value:
        return self.builder.create(kind, [x, y], [i1], {"predicate": kind.predicate_attr(predicate)}).out

    def _load(self, name: str) -> Value:
        m, n = self.arguments["m"], self.arguments["n"]
        block = self.builder.index(BLOCK)
        blocks = [self.builder.binary(arith.FloorDivSIOp, x, block) for x in (m, n)]
        source, indices = {
            "rows": ("rows", [m]),
            "columns": ("columns", [n]),
            "packed": ("columns", [m]),
            "length": ("length", [self.arguments["b"]]),
            "blocks": ("blocks", blocks),
            "padding": ("padding", [self.arguments["b"], n]),
            "dense": ("dense", [m, n]),
        }[name]
        tensor = self.arguments[source]
        assert isinstance(tensor.type, TensorType)
        loaded = self.builder.create(ExtractOp, [tensor, *indices], [tensor.type.element]).out
        return loaded if loaded.type in (i1, i64) else self.builder.create(arith.ExtSIOp, [loaded], [i64]).out


def region_of(tree: Tree) -> Region:
    """A mask region that computes `tree` and takes all of `CAPTURES`."""
    sizes = {"rows": ("L", i64), "columns": ("L", i32), "length": ("B", i64), "blocks": ("K", "K", i64)}
    shapes = {**sizes, "padding": ("B", "L", i1), "dense": ("L", "L", i1)}
    types = [TensorType(tuple(Symbol(s) for s in shapes[name][:-1]), shapes[name][-1]) for name in CAPTURES]  # type: ignore[arg-type]
    block = region_block("mask", Block.with_arguments(types, CAPTURES).arguments)
    names = ("b", "h", "m", "n", *CAPTURES)
    emitter = _Emitter(Builder(block), dict(zip(names, block.arguments, strict=True)))
    emitter.builder.create(YieldOp, [emitter.emit(tree)])
    return Region([block])


@dataclass(frozen=True)
class Captured:
    """Values for `CAPTURES`, for up to `LENGTH` positions."""

    arrays: tuple[Array, ...]

    @staticmethod
    def drawn(seed: int) -> Captured:
        """Segments that rise, as packed sequences have them, or that do not; sometimes too large to be understood."""
        random = np.random.default_rng(seed)
        rows = np.sort(random.integers(-1, 4, LENGTH)) if seed % 2 else random.integers(-3, 9, LENGTH)
        if seed % 5 == 0:
            rows[random.integers(0, LENGTH)] = 2**40
        columns = np.sort(random.integers(-1, 4, LENGTH)).astype(np.int32)
        blocks = random.integers(-1, 3, (LENGTH // BLOCK + 1, LENGTH // BLOCK + 1))
        dense, padding = random.random((LENGTH, LENGTH)) < 0.5, np.arange(LENGTH) < random.integers(0, LENGTH, (2, 1))
        return Captured((rows, columns, random.integers(0, LENGTH, 2), blocks, padding, dense))

    def of(self, region: Region) -> dict[Value, Array]:
        return dict(zip(region.block.arguments[4:], self.arrays, strict=True))


LENGTH = 40


def mask_of(region: Region, queries: int, keys: int, captures: Sequence[Array], b: int = 0, h: int = 0) -> Array:
    """What the region says of each query and key, in the words of the interpreter."""
    positions = [np.asarray(b), np.asarray(h), np.arange(queries)[:, None], np.arange(keys)[None, :]]
    (kept,) = Interpreter().run_region(region, [*positions, *captures])
    return np.broadcast_to(kept, (queries, keys))
