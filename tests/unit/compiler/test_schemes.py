"""What a user may ask of few bits, checked when it is written down, and what calibration makes of samples."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import attir
from attir.compiler.bases import bases
from attir.compiler.options import Options
from attir.compiler.schemes import SCHEMES, parse_scheme
from attir.quantization import Scheme, Storage, channel_mask, key_basis, pair_scales, scheme, value_basis

EYE = torch.eye(8)[None]


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("kv9", {}, "unknown scheme 'kv9'; expected int8, fp8, kv8, kv_fp8, kv7, kv6, kv5, kv4, kv3, kv2, kv1"),
        (None, {}, "unknown scheme None; expected int8"),
        ("kv4", {"colour": 1}, "a scheme has no field 'colour'; it has name, query, key, value"),
        ("kv4", {"rotate": "left"}, "unknown rotation 'left'; expected '' or 'hadamard'"),
        ("kv4", {"smooth": 3}, "'smooth' of a scheme must be True or False, but is 3"),
        ("kv4", {"key": 4}, "'key' of a scheme must be a Storage or None, but is 4"),
        ("kv4", {"key_rank": -1}, "'key_rank' of a scheme must be a whole number of at least 0, but is -1"),
        ("kv4", {"value_rank": 1.5}, "'value_rank' of a scheme must be a whole number of at least 0, but is 1.5"),
        ("kv4", {"key_rank": 4}, "a part of 4 channels needs the tensor 'key_basis' (K | 1, D, key_rank)"),
        ("kv4", {"channels": 4}, "a part of 4 channels needs the tensor 'key_basis'"),
        ("kv4", {"key_rank": 4, "tensors": {"key_basis": EYE}}, "of 4, but is (1, 8, 8)"),
        ("kv4", {"key_rank": 8, "tensors": {"key_basis": EYE[0]}}, "of 8, but is (8, 8)"),
        ("kv4", {"tensors": {"key_basis": EYE}}, "'key_basis' is given, but no part of the keys is asked for"),
        ("kv4", {"tensors": {"sparkles": EYE}}, "unknown tensor 'sparkles' of a scheme; expected key_basis"),
        ("kv4", {"tensors": {"pair_scales": 3.0}}, "'pair_scales' must be a tensor, but is 3.0"),
        ("kv4", {"tensors": {"pair_scales": EYE}}, "'pair_scales' must be (K | 1, D), positive, but is (1, 8, 8)"),
        ("kv4", {"key_rank": 2, "channels": 2}, "key_rank and channels are two ways to keep a part of the keys"),
        ("kv4", {"rotate": "hadamard", "channels": 2}, "both change their basis; expected one"),
        ("kv4", {"rotate_values": True, "value_rank": 2}, "rotate_values and value_rank both change the basis"),
        ("int8", {"key": None}, "codes of q and k are multiplied, so both must be of one kind, but q is int8"),
        ("int8", {"key": Storage(bits=4)}, "both must be of one kind"),
        ("kv4", {"key": Storage(bits=4, axis="tokens")}, "only values may be packed along tokens, but k is int4"),
    ],
)
def test_what_does_not_fit_together_is_refused_in_words(name: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(attir.CompileError) as caught:
        scheme(name, **changes)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (scheme("kv4", key_rank=8, tensors={"key_basis": EYE}), "'key_basis' must be (key heads or 1, 16, at most 16)"),
        (
            scheme("kv4", key_rank=20, tensors={"key_basis": torch.randn(1, 16, 20)}),
            "'key_basis' must be (key heads or 1, 16, at most 16), but is (1, 16, 20)",
        ),
        (
            scheme("kv4", value_rank=16, tensors={"value_basis": 2 * torch.eye(16)[None]}),
            "columns of 'value_basis' must be orthonormal, but their products are off by 3",
        ),
        (
            scheme("kv4", value_rank=16, tensors={"value_basis": torch.full((1, 16, 16), torch.nan)}),
            "columns of 'value_basis' must be orthonormal, but their products are off by nan",
        ),
        (scheme("kv4", tensors={"pair_scales": torch.ones(1, 8)}), "'pair_scales' must be (key heads or 1, 16)"),
        (scheme("kv4", tensors={"pair_scales": torch.zeros(1, 16)}), "'pair_scales' must be positive and finite"),
    ],
)
def test_tensors_that_do_not_fit_a_site_are_refused(how: Scheme, message: str) -> None:
    with pytest.raises(attir.CompileError) as caught:
        bases(how, 16, 16)
    assert message in str(caught.value)


def test_schemes_tell_themselves_in_words() -> None:
    assert str(scheme("int8", rotate="hadamard")) == (
        "int8: q and k int8, a scale for each token x all channels; keys minus their mean; hadamard rotation of q and k"
    )
    told = str(scheme("kv2", tensors={"value_basis": EYE}, value_rank=8))
    assert told.endswith("v uint2 + zero, a scale for each token x 64 channels; 8 directions of values")


def test_schemes_are_keys_of_dictionaries() -> None:
    assert scheme("kv4") == SCHEMES["kv4"] and hash(scheme("kv4", smooth=True)) != hash(scheme("kv4"))
    given = {"key_basis": EYE}
    assert scheme("kv4", key_rank=8, tensors=given) == scheme("kv4", key_rank=8, tensors=given)


def test_the_command_line_names_schemes() -> None:
    assert parse_scheme(" ") is None
    assert parse_scheme("kv4") == scheme("kv4")
    assert parse_scheme("int8(smooth=False, rotate='hadamard')") == scheme("int8", smooth=False, rotate="hadamard")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kv4(", "cannot read --quantize 'kv4('"),
        ("kv4(3)", "expected a scheme, as in kv4 or int8(smooth=False)"),
        ("kv4(smooth=x)", "cannot read --quantize 'kv4(smooth=x)'"),
        ("kv4(**3)", "expected a scheme, as in kv4"),
        ("kv40", "unknown scheme 'kv40'"),
        ("auto", "use attir.compile and attir.calibrate"),
    ],
)
def test_what_is_no_scheme_is_refused_in_words(text: str, message: str) -> None:
    with pytest.raises(attir.CompileError) as caught:
        parse_scheme(text)
    assert message in str(caught.value)


def test_options_take_names_and_schemes() -> None:
    assert Options(quantize="kv4").quantize == Options(quantize=scheme("kv4")).quantize == scheme("kv4")
    assert Options().quantize is None and not Options().reads_rows and Options(quantize="int8").reads_rows


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantize": "kv9"}, "unknown scheme 'kv9'"),
        ({"quantize": 4}, "unknown scheme 4"),
        ({"quantize": "kv4", "fuse_rows": "always"}, "q and k are quantised behind them"),
    ],
)
def test_options_that_cannot_be_followed(options: dict[str, Any], message: str) -> None:
    with pytest.raises(attir.CompileError) as caught:
        Options(**options)
    assert message in str(caught.value)


SAMPLE = torch.randn(1, 2, 9, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: key_basis([(SAMPLE, SAMPLE)], 9), "rank must be between 1 and the width 8, but is 9"),
        (lambda: value_basis([SAMPLE], 0), "rank must be between 1 and the width 8, but is 0"),
        (lambda: channel_mask([(SAMPLE, SAMPLE)], 9), "channels must be between 1 and the width 8, but is 9"),
        (lambda: key_basis([], 4), "calibration needs at least one batch, but there are none"),
        (lambda: value_basis([], 4), "calibration needs at least one batch, but there are none"),
        (lambda: channel_mask([], 4), "calibration needs at least one batch, but there are none"),
        (lambda: key_basis([(SAMPLE, SAMPLE / 0)], 4), "samples of k must be finite, but some numbers are not"),
        (lambda: value_basis([SAMPLE[:, :, :0]], 4), "samples of v must be (batch, heads, tokens, width) and not"),
        (lambda: key_basis([(SAMPLE[:, :1], SAMPLE)], 4), "must be a multiple of key heads, but are 1 and 2"),
        (lambda: pair_scales(SAMPLE, "quarter"), "unknown layout 'quarter'; expected half or interleaved"),
        (lambda: pair_scales(SAMPLE[..., :7]), "pairs of channels need an even width, but it is 7"),
    ],
)  # fmt: skip
def test_samples_that_say_nothing_are_refused(call: Any, message: str) -> None:
    with pytest.raises(attir.CompileError) as caught:
        call()
    assert message in str(caught.value)


def test_pairs_without_any_size_are_not_scaled() -> None:
    sample = SAMPLE.clone()
    sample[..., [1, 5]] = 0
    assert bool((pair_scales(sample)[:, [1, 5]] == 1).all()) and bool((pair_scales(0 * sample) == 1).all())
