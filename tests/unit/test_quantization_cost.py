"""What the cost model says of numbers in few bits, beside counts by hand and beside what must hold for any size."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attir.compiler.quantize_calibration import precision_of, standard_schemes
from attir.compiler.schemes import SCHEMES, scheme
from attir.cost_model.devices import TARGETS
from attir.cost_model.quantization import (
    EXACT,
    Precision,
    Work,
    kernel_seconds,
    predicted_seconds,
    preparation_seconds,
    rates_of,
)
from attir.ir.storage import Storage

PREFILL = Work(heads=32, key_heads=8, queries=8192, keys=8192, width=128, value_width=128, element_bytes=2)
DECODE = replace(PREFILL, queries=1, keys=65536)


def test_exact_attention_needs_no_preparation_and_is_bound_by_products_or_by_bytes() -> None:
    rates = rates_of("sm_90")
    assert preparation_seconds(PREFILL, EXACT, rates) == 0
    scores = 32 * 8192 * 8192
    products = scores * 256 / rates.products["f16"]
    assert kernel_seconds(PREFILL, EXACT, rates) == products + scores / rates.exponentials
    moved = 2 * (8 * 65536 * 256 + 32 * 256)
    assert kernel_seconds(DECODE, EXACT, rates) == pytest.approx(moved / rates.bandwidth)


def test_products_of_codes_take_half_the_time_where_the_device_has_them() -> None:
    scores = 32 * 8192 * 8192
    for name, gains in (("int8", {"sm_80": 1, "sm_90": 1}), ("fp8", {"sm_80": 0, "sm_90": 2})):
        for target, products in gains.items():
            rates, precision = rates_of(target), precision_of(SCHEMES[name])
            saved = kernel_seconds(PREFILL, EXACT, rates) - kernel_seconds(PREFILL, precision, rates)
            if products:
                assert saved == pytest.approx(products * scores * 128 / rates.products["f16"] / 2)
            else:
                assert saved < 0


@pytest.mark.parametrize("target", ["sm_90", "avx512"])
def test_a_cache_in_few_bits_is_read_faster_but_made_anew_in_every_call_it_never_pays(target: str) -> None:
    rates, times = rates_of(target), list[float]()
    for name in ("kv8", "kv4", "kv2"):
        precision = precision_of(SCHEMES[name])
        times.append(kernel_seconds(replace(DECODE, element_bytes=4), precision, rates))
        for work in (DECODE, PREFILL):
            assert predicted_seconds(work, precision, rates) > predicted_seconds(work, EXACT, rates)
    assert times[0] < kernel_seconds(replace(DECODE, element_bytes=4), EXACT, rates)
    assert target != "sm_90" or times == sorted(times, reverse=True)


def test_products_of_bytes_on_a_cpu_pay_in_long_prefill_only_and_where_it_has_them() -> None:
    int8 = precision_of(SCHEMES["int8"])

    def share(queries: int, *, dots: bool = True) -> float:
        work = Work(8, 8, queries, queries, 128, 128, 4)
        rates = rates_of("avx512", 2, integer_dots=dots)
        return predicted_seconds(work, int8, rates) / predicted_seconds(work, EXACT, rates)

    shares = [share(queries) for queries in (16, 128, 1024, 8192)]
    assert shares == sorted(shares, reverse=True) and shares[0] > 1 > shares[2] and shares[3] < 0.75
    assert share(8192, dots=False) > 1


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_and_scheme_has_a_time_that_grows_with_the_work(target: str) -> None:
    rates = rates_of(target)
    for chosen in (*SCHEMES.values(), *standard_schemes().values(), scheme("kv4", rotate_values=True)):
        precision = precision_of(chosen)
        times = [predicted_seconds(replace(PREFILL, queries=n, keys=n), precision, rates) for n in (1, 100, 10_000)]
        assert 0 < times[0] < times[1] < times[2]
        with_nothing = predicted_seconds(replace(PREFILL, queries=0, keys=0, heads=0, key_heads=0), precision, rates)
        assert 0 <= with_nothing < 1e-3


def test_only_plain_bytes_are_multiplied_as_they_are() -> None:
    rates, plain = rates_of("sm_90"), Storage(tokens=64, width=128)
    fast = kernel_seconds(PREFILL, Precision(plain, plain), rates)
    for other in (replace(plain, channels=32), replace(plain, bits=4), replace(plain, signed=False, zero=True)):
        assert kernel_seconds(PREFILL, Precision(other, other), rates) > fast
    assert kernel_seconds(PREFILL, Precision(None, plain), rates) > fast
