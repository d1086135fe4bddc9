"""What makes numbers fit in few bits changes no result, and what reads few bits reads the numbers behind them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from attir.compiler.attention_cases import Case, Shape
from attir.compiler.bases import bases, channel_mask, hadamard, key_basis, pair_scales, value_basis
from attir.compiler.prepare_site import prepare
from attir.compiler.schemes import Scheme, scheme
from attir.compiler.selection import select
from attir.compiler.storage_math import dequantize, quantize
from attir.ir.attributes import FloatAttr, FloatType, f16, f32
from attir.ir.builder import Builder
from attir.ir.core import Operation, Region
from attir.ir.diagnostics import CompileError
from attir.ir.dialects.attn import AttentionOp, YieldOp, region_block
from attir.ir.interpreter import interpret
from attir.ir.storage import Storage
from attir.ir.verifier import verify
from attir.passes.manager import PassContext
from attir.passes.moved_scores import moves_with_scores
from attir.passes.quantize import Quantize, entries_of, for_width, storage_of

SHAPE = Shape(2, 4, 2, 19, 26)
WIDTH, VALUE_WIDTH = 12, 20
FORMS = ("none", "causal", "alibi", "softcap", "bias", "dropped")


def case_of(form: str, *, lse: bool = True, dtype: FloatType = f32) -> Case:
    return Case(dtype, WIDTH, VALUE_WIDTH, group=2, form=form, lse=lse)


def inputs(case: Case) -> list[NDArray[Any]]:
    """q, k, v and captures; keys have a large mean and large channels."""
    q, k, v, captures = case.tensors(SHAPE)
    k = k * torch.linspace(0.2, 5, WIDTH) + torch.linspace(-8, 8, WIDTH)
    return [x.numpy() for x in (q.double(), k.double(), v.double())] + [c.numpy() for c in captures]


def run(module: Operation, given: list[NDArray[Any]]) -> list[NDArray[Any]]:
    verify(module)
    return interpret(module, "attention", *given, precise=True)


def assert_same(module: Operation, how: Scheme, given: list[NDArray[Any]]) -> Operation:
    """Fail where the scheme changes results of a program by more than sums in another order do."""
    program = prepare(module, None, quantize=how).program
    tensors = [x.numpy() for x in bases(how, WIDTH, VALUE_WIDTH).values()]
    for found, wanted in zip(run(program.module, [*given, *tensors]), run(module, given), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-11)
    return program.module


def orthogonal(heads: int, width: int) -> torch.Tensor:
    draw = torch.randn(heads, width, width, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return torch.linalg.qr(draw)[0]  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


def every_channel() -> torch.Tensor:
    sample = torch.ones(1, 4, 3, WIDTH), torch.ones(1, 2, 3, WIDTH)
    return channel_mask([sample], WIDTH)


SCALES = torch.linspace(0.1, 10, WIDTH, dtype=torch.float64).repeat(2, 1)
IDENTITIES = {
    "smooth": Scheme("exact", smooth=True),
    "rotated": Scheme("exact", rotate="hadamard"),
    "values rotated": Scheme("exact", rotate_values=True),
    "scaled": Scheme("exact", tensors=(("pair_scales", SCALES),)),
    "all directions": Scheme("exact", key_rank=WIDTH, tensors=(("key_basis", orthogonal(2, WIDTH)),)),
    "all directions of values": Scheme(
        "exact", value_rank=VALUE_WIDTH, tensors=(("value_basis", orthogonal(1, VALUE_WIDTH)),)
    ),
    "all channels": Scheme("exact", channels=WIDTH, tensors=(("key_basis", every_channel()),)),
    "everything": Scheme(
        "exact", smooth=True, rotate="hadamard", rotate_values=True, tensors=(("pair_scales", SCALES[:1]),)
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", IDENTITIES)
def test_what_is_done_to_rows_changes_nothing(name: str, form: str) -> None:
    case = case_of(form)
    assert_same(case.module(), IDENTITIES[name], inputs(case))


@pytest.mark.parametrize(("form", "noticed"), [("none", False), ("causal", False), ("bias", False), ("softcap", True)])
def test_what_rows_lost_is_added_only_where_it_is_noticed(form: str, noticed: bool) -> None:
    for lse in (False, True):
        case = case_of(form, lse=lse)
        text = str(assert_same(case.module(), IDENTITIES["smooth"], inputs(case)))
        assert ("attn.project" in text) == (noticed or lse)


@pytest.mark.parametrize("kind", ["sink", "empty_score"])
def test_what_rows_lost_is_added_beside_a_sink_or_a_score_of_empty_rows(kind: str) -> None:
    case = case_of("dropped", lse=False)
    module = case.module()
    attention = attention_of(module)
    if kind == "empty_score":
        attention.empty_score = FloatAttr(-3.0, f32)
    else:
        block = region_block("sink", attention.captures)
        builder = Builder(block)
        builder.create(YieldOp, [builder.constant(0.5, f32)])
        attention.set_region("sink", Region([block]))
    assert "attn.project" in str(assert_same(module, IDENTITIES["smooth"], inputs(case)))


def attention_of(module: Operation) -> AttentionOp:
    return next(AttentionOp(op) for op in module.walk() if AttentionOp.match(op))


@pytest.mark.parametrize(
    ("form", "moves"), [("none", True), ("alibi", True), ("bias", True), ("table", True), ("softcap", False)]
)
def test_scores_that_move(form: str, moves: bool) -> None:
    assert moves_with_scores(attention_of(case_of(form).module()).score) == moves


@pytest.mark.parametrize("width", [1, 2, 12, 64, 80, 96, 128])
def test_a_rotation_of_any_width_is_orthogonal(width: int) -> None:
    matrix = hadamard(width)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(width, dtype=torch.float64))


@pytest.mark.parametrize("layout", ["half", "interleaved"])
def test_scaled_pairs_commute_with_rope(layout: str) -> None:
    draw = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, 2, 9, WIDTH, generator=draw, dtype=torch.float64) for _ in range(2))
    k = k * torch.linspace(0.1, 9, WIDTH)
    scales = pair_scales(k, layout).double()[:, None]
    rotated = rope(q, layout) @ rope(k, layout).transpose(2, 3)
    before = rope(q * scales, layout) @ rope(k / scales, layout).transpose(2, 3)
    torch.testing.assert_close(before, rotated)
    torch.testing.assert_close(rope(k / scales, layout), rope(k, layout) / scales)
    assert size_of_channels(k / scales) < size_of_channels(k)


def rope(x: torch.Tensor, layout: str) -> torch.Tensor:
    """x rotated by its position, a pair of channels at a time."""
    angles = torch.arange(x.shape[2])[:, None] * 0.7 ** torch.arange(WIDTH // 2)
    first = torch.arange(WIDTH // 2) * (1 if layout == "half" else 2)
    second = first + (WIDTH // 2 if layout == "half" else 1)
    a, b, out = x[..., first], x[..., second], torch.empty_like(x)
    out[..., first], out[..., second] = a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()
    return out


def size_of_channels(k: torch.Tensor) -> float:
    """The largest channel over the smallest."""
    sizes = k.abs().amax((0, 1, 2))
    return float(sizes.max() / sizes.min())


STORAGES = {
    "int8": scheme("int8"),
    "fp8": scheme("fp8"),
    "kv8": scheme("kv8"),
    "kv_fp8": scheme("kv_fp8"),
    **{f"kv{bits}": scheme(f"kv{bits}") for bits in range(1, 8)},
    "along tokens": Scheme("along", key=Storage(), value=Storage(bits=3, zero=True, axis="tokens", tokens=0, block=8)),
}


@pytest.mark.parametrize("name", STORAGES)
def test_attention_reads_the_numbers_behind_codes(name: str) -> None:
    """As attention over what `storage_math` quantises and dequantises."""
    how, case = STORAGES[name], case_of("causal", lse=False)
    module, given = case.module(), inputs(case)
    parts = dict(zip(("query", "key", "value"), map(torch.tensor, given[:3]), strict=True))
    if how.smooth:
        parts["key"] = parts["key"] - parts["key"].mean(2, keepdim=True)
    for region, x in parts.items():
        if (template := getattr(how, region)) is not None:
            storage = for_width(template, x.shape[3])
            codes, *scales = quantize(x, storage, torch.float64)
            parts[region] = dequantize(codes, storage, *scales, tokens=x.shape[2], dtype=torch.float64)
    found = run(prepare(module, None, quantize=how).program.module, given)
    wanted = run(module, [x.numpy() for x in parts.values()])
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-9, atol=1e-9)


def test_a_part_of_the_directions_is_kept() -> None:
    """Keys and values that lie in a subspace lose nothing in it."""
    case = case_of("causal")
    q, k, v, *_ = (torch.tensor(x) for x in inputs(case))
    inside, outside = orthogonal(1, WIDTH)[0, :, :5], orthogonal(1, VALUE_WIDTH)[0, :, :7]
    q, k, v = q @ inside @ inside.T, k @ inside @ inside.T, v @ outside @ outside.T
    tensors = {"key_basis": key_basis([(q, k)], 5), "value_basis": value_basis([v], 7)}
    assert tensors["key_basis"].shape == (2, WIDTH, 5) and tensors["value_basis"].shape == (2, VALUE_WIDTH, 7)
    how = Scheme("parts", key_rank=5, value_rank=7, tensors=tuple(tensors.items()))
    module, given = case.module(), [x.numpy() for x in (q, k, v)]
    program = prepare(module, None, quantize=how).program
    assert attention_of(program.module).shapes[1].shape[3] == 5
    found = run(program.module, [*given, *(t.numpy() for t in bases(how, WIDTH, VALUE_WIDTH).values())])
    for x, y in zip(found, run(module, given), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)


def test_channels_that_scores_do_not_depend_on_are_dropped() -> None:
    case = case_of("none")
    q, k, v, *_ = (torch.tensor(x) for x in inputs(case))
    k[:, 0, :, ::2], k[:, 1, :, :3] = 0, 0
    mask = channel_mask([(q, k)], 9)
    assert not mask[1, :3].any() and mask.sum() == 18
    how = Scheme("channels", channels=9, tensors=(("key_basis", mask),))
    assert_same(case.module(), how, [q.numpy(), k.numpy(), v.numpy()])


def test_blocks_are_chosen_by_keys_as_they_are() -> None:
    case = case_of("causal", lse=False)
    chosen = select("quest", keep=1.0, block=16, rows=16)
    module, given = case.module(), inputs(case)
    program = prepare(module, chosen, quantize=scheme("kv8")).program
    wanted = run(prepare(module, None, quantize=scheme("kv8")).program.module, given)
    np.testing.assert_allclose(run(program.module, given)[0], wanted[0], rtol=1e-12, atol=1e-12)
    assert str(program.module).index("attn.select") < str(program.module).index("attn.quantize")


@pytest.mark.parametrize(
    "how", [Storage(), Storage(bits=3, signed=False, zero=True, tokens=0, channels=5), Storage("f16", 16)]
)
def test_a_storage_is_read_as_it_was_written(how: Storage) -> None:
    assert storage_of(entries_of(how)) == how


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (Quantize(key=("bits",)), "cannot read 'bits' of a storage: expected name=value with kind, bits"),
        (Quantize(key=("colour=3",)), "cannot read 'colour=3' of a storage"),
        (Quantize(key=("bits=four",)), "'bits' of a storage must be a number, but is 'four'"),
        (Quantize(key=("bits=9",)), "integers must have 1 to 8 bits, but have 9"),
        (Quantize(tensors=("sparkles",)), "unknown tensor 'sparkles'; expected query_basis, key_basis, value_basis"),
        (Quantize(tensors=("key_basis",)), "the basis for 'key' must have 12 rows and a constant width"),
    ],
)
def test_what_cannot_be_followed_is_refused(how: Quantize, message: str) -> None:
    with pytest.raises(CompileError) as caught:
        how.run(case_of("none").module(), PassContext())
    assert message in str(caught.value)


def test_operands_in_few_bits_already_are_refused() -> None:
    eight = FloatType("f8E4M3FN")
    with pytest.raises(CompileError) as caught:
        prepare(Case(eight, 16).module(), None, quantize=scheme("kv4"))
    assert "quantises numbers of 16 bits or more, but the operand of 'key' is" in str(caught.value)


def test_half_numbers_are_quantised_from_their_own_type() -> None:
    case = case_of("causal", lse=False, dtype=f16)
    program = prepare(case.module(), None, quantize=scheme("int8")).program
    verify(program.kernel())
    assert attention_of(program.module).shapes[1].element == f16
