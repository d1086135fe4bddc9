"""Every way to schedule a kernel for a GPU, in Triton's interpreter, against attention in float64.

The bound is that of `closeness`: how a kernel is scheduled may cost no accuracy.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from numeric.closeness import FLOATS, NATIVE, ROUNDOFF, assert_agrees, assert_within, error

from attir.compiler.attention_cases import Case, Shape
from attir.compiler.kernels import compile_site
from attir.compiler.options import Options
from attir.compiler.sites import Runner
from attir.ir.attributes import FloatType, bf16, f16, f32
from attir.ir.diagnostics import CompileError

KINDS: dict[str, dict[str, Any]] = {
    "host": {"descriptors": "host"},
    "device": {"descriptors": "device"},
    "persistent": {"persistent": 2},
    "persistent, device": {"persistent": True, "descriptors": "device"},
    "specialised": {"specialised": True, "block_m": 32, "block_n": 16},
    "specialised, persistent": {"specialised": True, "block_m": 32, "block_n": 16, "persistent": 2},
    "low tiles": {"block_m": 16, "block_n": 32},
}
FORMS = ("none", "causal", "window", "alibi", "softcap", "documents")


def runner(case: Case, options: dict[str, Any]) -> Runner:
    return compile_site(case.module(), Options(backend="interpret", backend_options=options)).runner


def agrees(case: Case, options: dict[str, Any], shape: Shape, seed: int = 0) -> None:
    q, k, v, captures = case.tensors(shape, seed=seed)
    assert_agrees(case, runner(case, options), q, k, v, captures)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_schedule_of_every_form(kind: str, form: str) -> None:
    if KINDS[kind].get("specialised") and form == "documents":
        pytest.skip("no tile of this mask is known to be whole: refused, see below")
    agrees(Case(f16, 32, form=form), KINDS[kind], Shape(2, 2, 2, 70, 101))


@pytest.mark.parametrize("width", [16, 40, 72, 80, 96, 192])
@pytest.mark.parametrize("kind", ["host", "device", "specialised"])
def test_head_dimensions_in_pieces(kind: str, width: int) -> None:
    agrees(Case(bf16, width, form="causal"), KINDS[kind], Shape(1, 2, 2, 40, 40), seed=1)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(("width", "value_width"), [(24, 80), (192, 48)])
def test_values_wider_or_narrower_than_keys(width: int, value_width: int, dtype: FloatType) -> None:
    agrees(Case(dtype, width, value_width, form="causal"), KINDS["device"], Shape(1, 1, 1, 40, 50))


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (17, 64), (64, 17), (100, 17), (130, 16)])
@pytest.mark.parametrize("kind", ["device", "specialised", "persistent"])
def test_lengths_that_tiles_do_not_divide_and_rows_without_keys(kind: str, queries: int, keys: int) -> None:
    for form in ("none", "causal", "window"):
        agrees(Case(f32, 16, form=form), KINDS[kind], Shape(1, 3, 3, queries, keys))


@pytest.mark.parametrize("queries", [1, 2, 7, 16, 33, 128])
@pytest.mark.parametrize("group", [1, 4])
def test_few_queries_over_many_keys_in_parts(queries: int, group: int) -> None:
    """Heads of a group and queries are the rows of one tile, keys are split and merged."""
    case = Case(f16, 32, group=group, form="causal")
    shape = Shape(1, 4, 4 // group, queries, 700)
    q, k, v, captures = case.tensors(shape)
    # The last queries of a long text: no key is masked for most of them but with the mask of the test.
    assert_agrees(case, runner(case, {}), q, k, v, captures)
    free = Case(f16, 32, group=group)
    assert_agrees(free, runner(free, {}), q, k, v, ())


@pytest.mark.parametrize("options", [{"swap": True}, {"descriptors": "host"}, {"swap": True, "descriptors": "device"}])
@pytest.mark.parametrize("form", ["none", "window", "bias", "softcap", "documents", "dropped"])
def test_decoding_schedules(form: str, options: dict[str, Any]) -> None:
    agrees(Case(bf16, 80, group=2, form=form), options, Shape(2, 4, 2, 3, 300))


def test_the_order_of_heads_covers_each_once_where_the_cache_holds_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Longest tiles of a few heads first: with 1 to 7 heads at once, of 10."""
    from attir.passes import row_tiles

    for heads in (1, 3, 7):
        monkeypatch.setattr(row_tiles, "L2_BYTES", heads * 100 * 2 * 16 * 2 + 1)
        kernel = Options(backend="interpret", cache=False, backend_options={"block_m": 32, "block_n": 32})
        case = Case(f16, 16, form="causal")
        q, k, v, captures = case.tensors(Shape(2, 5, 5, 140, 100))
        assert_agrees(case, compile_site(case.module(), kernel).runner, q, k, v, captures)


FLOAT8 = [FloatType("f8E4M3FN"), FloatType("f8E5M2")]


@pytest.mark.parametrize("dtype", FLOAT8, ids=str)
@pytest.mark.parametrize("form", ["none", "causal", "window", "softcap"])
@pytest.mark.parametrize("kind", ["low tiles", "device", "host", "specialised"])
def test_8_bit_floats(kind: str, form: str, dtype: FloatType) -> None:
    """Weights are rounded to 3 or 2 bits: an error of half a unit of each, which sum to at most 1."""
    options = {**KINDS[kind], "block_n": 32}
    case = Case(dtype, 48, form=form)
    q, k, v, captures = case.tensors(Shape(1, 2, 2, 70, 90))
    out, lse = runner(case, options)(q, k, v, captures, True)
    exact, exact_lse = case.reference(q.double(), k.double(), v.double(), captures)
    largest = v.double().abs().max().item()
    assert out.dtype == torch.float16
    half_a_unit = 2.0**-4 if dtype.name == "f8E4M3FN" else 2.0**-3
    assert_within(out, exact, (half_a_unit + 2.0 * ROUNDOFF[f16]) * largest)
    assert_within(lse, exact_lse, 32 * ROUNDOFF[f32] * (1.0 + exact_lse[exact_lse.isfinite()].abs().max().item()))
    # Errors of many keys cancel: on average far less than the bound.
    kept = exact.isfinite()
    assert (out.double() - exact)[kept].abs().mean().item() <= half_a_unit / 4 * v.double().abs().mean().item()
    assert error(out, exact) > 0.0


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "specialised documents": ({"specialised": True}, "documents", "no tile is known to be whole"),
    "specialised bias": ({"specialised": True}, "bias", "score region loads for each key"),
    "unknown maker": ({"descriptors": "both"}, "none", "descriptors must be host or device"),
    "specialised and swapped": ({"specialised": True, "swap": True}, "none", "specialised warps and swapped operands"),
    "not a power of two": ({"block_m": 48}, "none", "must be a power of two of at least 16, but is 48"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wishes_that_cannot_be_followed_are_refused(name: str) -> None:
    options, form, words = REFUSED[name]
    with pytest.raises(CompileError, match=words):
        runner(Case(f16, 32, form=form), options)


@pytest.mark.parametrize("options", [{"descriptors": "host"}, {"specialised": True}])
def test_rows_of_odd_bytes_cannot_be_copied_as_tiles(options: dict[str, Any]) -> None:
    with pytest.raises(CompileError, match="rows of k have 34 bytes"):
        runner(Case(f16, 17), options)


@pytest.mark.parametrize("kind", ["specialised", "device", "persistent, device"])
def test_calls_whose_tensors_no_descriptor_can_stand_for(kind: str) -> None:
    """They run through pointers, whatever was wished: strides of odd bytes, and one head for all."""
    case = Case(f16, 32, form="causal")
    run = runner(case, KINDS[kind])
    q, k, v, captures = case.tensors(Shape(1, 2, 2, 140, 140))
    odd = torch.cat([k, k[..., :1]], 3)[..., :32]
    assert_agrees(case, run, q, odd, v, captures)
    assert_agrees(case, run, q, k, v[:, :1].expand_as(v), captures)
    assert_agrees(case, run, q, k, v, captures)


@pytest.mark.parametrize(("options", "words"), [
    ({"tiles": 3}, "unknown backend option 'tiles'"),
    ({"block_m": "64"}, "'block_m' must be a number"),
    ({"descriptors": 1}, "'descriptors' must be a string"),
    ("fast", "backend_options must be a dictionary"),
])  # fmt: skip
def test_options_that_are_none_are_refused_at_once(options: Any, words: str) -> None:
    with pytest.raises(CompileError, match=words):
        Options(backend_options=options)


@NATIVE
def test_native_kernels_take_no_options_of_gpus() -> None:
    with pytest.raises(CompileError, match="backend_options are for kernels on GPUs"):
        compile_site(Case(f32, 16).module(), Options(backend="native", backend_options={"swap": 1}))


class Negative(Case):
    """A scale below zero, as a model may have it."""

    @property
    def scale(self) -> float:
        return -0.4


@pytest.mark.parametrize("kind", ["device", "specialised", "persistent", "low tiles"])
@pytest.mark.parametrize("form", ["none", "causal", "softcap"])
def test_negative_scales(form: str, kind: str) -> None:
    agrees(Negative(f16, 32, form=form), KINDS[kind], Shape(1, 2, 2, 50, 70))


@pytest.mark.parametrize(("queries", "group"), [(64, 8), (100, 4)])
def test_more_rows_than_one_tile_share_keys_and_split_them(queries: int, group: int) -> None:
    case = Case(f16, 16, group=group)
    agrees(case, {"block_n": 64}, Shape(1, group, 1, queries, 900))
