"""How much products and caches in few bits lose, beside what their storage alone loses in float64."""

from __future__ import annotations

from collections.abc import Iterator

from attir.compiler.attention_cases import DTYPES, Case, Shape
from attir.compiler.schemes import scheme
from attir.ir.attributes import FloatType, bf16, f16, f32
from benchmarks.grouped import Row, Settings
from benchmarks.structured_inputs import outlier_channels

from .programs import Inputs, Program, exact, relative

PRODUCTS, KERNEL = 0.01, 1.2
LENGTH = 1024


def products(settings: Settings) -> Iterator[Row]:
    """int8 q k with smoothing, on keys with outlier channels; without smoothing beside it."""
    for length in settings.chosen((LENGTH,), (LENGTH, 4096)):
        for width in (64, 128):
            for dtype in (f32, f16, bf16):
                yield _product(dtype, width, length)


def _product(dtype: FloatType, width: int, length: int) -> Row:
    case = Case(dtype=dtype, width=width, form="none", lse=False)
    inputs = outliers(dtype, width, length)
    wanted = exact(case, inputs)
    errors = {
        name: relative(Program.of(case, scheme("int8", smooth=smooth)).call(inputs)(), wanted)
        for name, smooth in (("with smoothing", True), ("without", False))
    }
    plain = relative(Program.of(case, None).call(inputs)(), wanted)
    held = errors["with smoothing"] <= PRODUCTS
    return Row(f"int8 q k, {dtype} D {width}, N {length}", {**errors, "exact kernel": plain}, "<= 1 %", held)


def outliers(dtype: FloatType, width: int, length: int) -> Inputs:
    q, k, v = outlier_channels(length=length, width=width, heads=4)
    return q.to(DTYPES[dtype]), k.to(DTYPES[dtype]), v.to(DTYPES[dtype])


def caches(settings: Settings) -> Iterator[Row]:
    """The error of kernels over caches in few bits, as a multiple of that of the same storage in float64."""
    for bits in (8, 4, 2) if settings.quick else range(8, 0, -1):
        for dtype in (f32, bf16):
            for queries in (1, 128):
                yield cache_error(bits, dtype, queries)


def cache_error(bits: int, dtype: FloatType, queries: int, backend: str = "native", keys: int = LENGTH) -> Row:
    """One row."""
    case = Case(dtype=dtype, width=128, group=4, lse=False)
    inputs = case.tensors(Shape(heads=8, key_heads=2, queries=queries, keys=keys))[:3]
    program = Program.of(case, scheme(f"kv{bits}"), backend)
    wanted = exact(case, inputs)
    stored = relative(exact(case, program.meant(inputs)), wanted)
    found = relative(program.call(inputs)(), wanted)
    plain = relative(Program.of(case, None, backend).call(inputs)(), wanted)
    figures = {"error": found, "of its storage in float64": stored, "exact kernel": plain, "multiple": found / stored}
    what = f"KV int{bits}, {dtype}, {queries} queries, {backend}"
    return Row(what, figures, f"<= {KERNEL} x", found <= KERNEL * stored)
