"""The four limits of serving against arithmetic by hand, and how they move with length and batch."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attir.cost_model.devices import MARKETED, device_described
from attir.cost_model.serving import LanguageModel, decode_seconds, knee, serving_limits
from attir.ir.diagnostics import CompileError

YI_34B = LanguageModel(parameters=34e9, layers=60, heads=56, key_heads=8, width=128)
A100 = device_described("a100")


def test_34b_with_50k_tokens_on_an_a100() -> None:
    """By hand: 245,760 bytes a token are 12.288 GB; 3.4 + 2.1504 PFLOP of 312 TFLOP/s; 80.288 GB of 2.04 TB/s."""
    context = 50_000
    limits = serving_limits(YI_34B, context, A100)
    assert YI_34B.token_bytes == 2 * 60 * 8 * 128 * 2 == 245_760
    assert YI_34B.cache_bytes(context) == 12.288e9
    assert YI_34B.prefill_flops(context) == pytest.approx(3.4e15 + 2.1504e15)
    assert limits.prefill == pytest.approx(5.5504e15 / 311.87e12, rel=1e-3)
    assert limits.users == pytest.approx((80e9 - 68e9) / 12.288e9)  # not even one
    assert limits.token == pytest.approx(80.288e9 / 2.04e12)  # 39 ms
    assert limits.switch == pytest.approx(2 * 12.288e9 / 31.5e9)
    assert limits.request(251) == pytest.approx(limits.prefill + 250 * limits.token)
    assert limits.binding(tokens=2, users=1) == "prefill" and limits.binding(tokens=5000, users=1) == "decoding"


@pytest.mark.parametrize("name", MARKETED)
def test_limits_grow_with_the_context(name: str) -> None:
    device, model = MARKETED[name], replace(YI_34B, parameters=7e9, layers=32)
    short, long = (serving_limits(model, n, device) for n in (4_000, 100_000))
    assert short.prefill < long.prefill and short.token < long.token and short.switch < long.switch
    assert short.users > long.users


def test_attention_of_decoding_does_not_depend_on_batch_or_length() -> None:
    """In 16 bits as many operations a byte as there are heads for a key head."""
    assert YI_34B.decode_intensity == 56 / 8
    assert replace(YI_34B, element_bytes=1).decode_intensity == 2 * 56 / 8


def test_a_batch_saves_only_the_weights() -> None:
    device, context = device_described("h200"), 32_768
    one, many = (decode_seconds(YI_34B, context, device, b) / b for b in (1, 8))
    cache = YI_34B.cache_bytes(context) / device.bandwidth
    assert cache < many < one and many == pytest.approx(cache + YI_34B.weight_bytes / device.bandwidth / 8)


def test_the_knee_comes_earlier_for_long_contexts() -> None:
    device, small = replace(device_described("h200"), memory=1e12), replace(YI_34B, parameters=7e9)
    assert knee(small, 1_000, device) > knee(small, 100_000, device) >= 1


def test_devices_have_names_that_are_sold() -> None:
    assert device_described("H200").bandwidth == 4.8e12 and device_described("H200").name == "sm_90"
    assert device_described("RTX 4090").name == device_described("l40s").name == "sm_89"
    assert device_described("sm_90").marketing_name == "H100"
    with pytest.raises(CompileError, match="device must be one of a100, h100, h200"):
        device_described("v100")


@pytest.mark.parametrize(("name", "peak"), [("a100", 312), ("h100", 989.5), ("h200", 989.5), ("b200", 2250),
                                            ("rtx4090", 165.2), ("l40s", 362), ("mi300x", 1307)])  # fmt: skip
def test_peaks_are_those_of_data_sheets(name: str, peak: float) -> None:
    assert MARKETED[name].tensor_peak == pytest.approx(peak * 1e12, rel=0.02)
