"""`attir doctor --calibrate`: what is measured makes sense, is kept, is read again, and is not believed if garbage."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from unit.cli.command_line import Attir

from attir.compiler import calibrate_cpu, doctor
from attir.compiler.calibrate_cpu import (
    as_values,
    cache_sizes,
    calibrate,
    calibrated_rates,
    from_values,
    keep,
    use_calibration,
)
from attir.compiler.host_cpu import host_target
from attir.compiler.machine_loops import (
    CHUNK,
    copy_text,
    fma_text,
    native_call,
    read_text,
    softmax_text,
    widen_text,
)
from attir.compiler.native_support import native_problem
from attir.cost_model.cpus import CPUS, DEFAULT_RATES, rates_for, set_rates

pytestmark = pytest.mark.skipif(bool(native_problem()), reason=native_problem() or "native kernels work")


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A cache and rates of each test's own."""
    monkeypatch.setenv("ATTIR_CACHE_DIR", str(tmp_path))
    yield
    for name in CPUS:
        set_rates(name, None)


def test_it_prints_and_keeps_what_it_measures(attir: Attir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate_cpu, "calibrate", partial(calibrate, seconds=0.03))
    target = host_target()
    assert calibrated_rates(target) is None
    outcome = attir("doctor", "--calibrate")
    assert outcome.code == 0, outcome.err
    for name in ("clock", "fma", "L1", "L2", "L3", "memory", "exponentials", "widened_bf16", "thread", "call"):
        assert f"  ok    {name} " in outcome.out, name
    assert outcome.out.count("spread ") == 13
    assert outcome.out.splitlines()[-1] == "for predictions from now on: kept in the tuning cache"
    kept = calibrated_rates(target)
    assert kept is not None and kept == rates_for(target)
    set_rates(target, None)
    assert use_calibration(target) and rates_for(target) == kept
    assert f"calibration                  {1e-9 * kept.flops:.0f} GFLOP/s a core" in attir("doctor").out


def test_what_is_measured_makes_sense() -> None:
    found = calibrate(seconds=0.05)
    rates, cpu = found.rates, CPUS[host_target()]
    assert 0.5e9 < rates.clock < 8e9
    assert 0.5 < rates.fma < 4.5 and 2.5 < rates.latency < 8
    reads = [level.read for level in rates.levels]
    # Neighbours differ little where a machine is shared; the ends differ by much anywhere.
    assert reads[0] > 2 * reads[-1]
    assert [level.bytes for level in rates.levels] == [*cache_sizes(), math.inf]
    assert all(level.copy < 1.5 * level.read for level in rates.levels)
    assert rates.exponentials < cpu.lanes * rates.clock
    assert 0 < rates.program < rates.thread and 0 < rates.call < 1e-2
    assert all(0 <= spread < 2 for spread in found.spreads.values())


def test_values_read_back_and_garbage_is_not_believed() -> None:
    rates = replace(DEFAULT_RATES["avx512"], clock=2.5e9, threads=7)
    values = as_values(rates)
    assert from_values("avx512", values) == rates
    wrong: list[dict[str, Any]] = [
        {},
        {**values, "name": "avx2"},
        {**values, "clock": 0},
        {**values, "clock": "fast"},
        {**values, "fma": math.nan},
        {**values, "levels": values["levels"][:3]},
        {**values, "levels": [[1, 2], *values["levels"][1:]]},
        {**values, "levels": None},
        {name: x for name, x in values.items() if name != "call"},
    ]
    assert [from_values("avx512", x) for x in wrong] == [None] * len(wrong)
    assert calibrated_rates("sm_90") is None and not use_calibration("sm_90")


def test_it_needs_native_kernels(attir: Attir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "native_problem", lambda: "the native backend needs torch-mlir")
    outcome = attir("doctor", "--calibrate")
    assert outcome.code == 1 and "no CPU to calibrate: the native backend needs torch-mlir" in outcome.err


def test_a_cache_that_cannot_be_used_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = calibrate(seconds=0.01)
    (tmp_path / "taken").write_text("")
    monkeypatch.setenv("ATTIR_CACHE_DIR", str(tmp_path / "taken"))
    with pytest.warns(UserWarning, match="the tuning cache is kept in memory"):
        told = keep(found)
    assert told != "kept in the tuning cache"
    assert rates_for(host_target()) == found.rates


# --- the loops do what they say


def test_loops_over_memory_compute_sums_copies_and_conversions() -> None:
    cpu, chunks = CPUS[host_target()], 3
    source, sums = torch.rand(chunks * CHUNK // 4), torch.zeros(chunks * cpu.lanes)
    expected = source.view(chunks, -1).double().sum(1)
    for prefetch in (False, True):
        native_call(read_text(cpu, prefetch=prefetch), 2, (2 * chunks, chunks), source, sums.zero_())()
        assert torch.allclose(sums.view(chunks, -1).double().sum(1), expected, rtol=1e-5)
    target = torch.zeros_like(source)
    native_call(copy_text(cpu), 2, (chunks, chunks), source, target)()
    assert torch.equal(target, source)
    chunk, wide = torch.rand(CHUNK // 4), torch.zeros(CHUNK // 4)
    native_call(softmax_text(cpu), 1, (2,), chunk, wide, sums)()
    assert torch.allclose(wide, torch.exp2(chunk - 1), rtol=1e-6)
    for element, dtype in (("f16", torch.float16), ("bf16", torch.bfloat16)):
        native_call(widen_text(cpu, element), 1, (1,), chunk.to(dtype), wide, sums)()
        assert torch.equal(wide, chunk.to(dtype).float())


def test_multiply_adds_are_counted() -> None:
    cpu = CPUS[host_target()]
    text, operations = fma_text(cpu)
    room = torch.full((4 * cpu.lanes,), 0.5)
    native_call(text, 1, (200,), room)()
    # Each sum tends to the s that s * x + x leaves as it is, which is 1 for x = 0.5.
    count = operations // (2 * cpu.lanes)
    assert torch.allclose(room[cpu.lanes : 2 * cpu.lanes], torch.full((cpu.lanes,), float(count)))
