"""Kernels compiled to learn from: a balanced sample, runs that go on where they stopped, compilers that fail."""

from __future__ import annotations

import gzip
import os
import signal
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from attir.compiler import collect_compiles
from attir.compiler.attention_cases import Case
from attir.compiler.collect_compiles import CLASSES, TIMEOUT, collect, compiled_apart, compiled_record, main
from attir.compiler.compile_sample import Configuration, Tiles, configurations, lowered, scheduled, shape_of
from attir.cost_model.dataset import CompileRecord, read_compiles, read_sections
from attir.cost_model.devices import device_named
from attir.cost_model.resources import AttentionShape, refusal
from attir.cost_model.schedule import Schedule
from attir.ir.attributes import f16
from attir.passes.attention_shape import attention_shape
from attir.passes.plan_gpu import as_scheduled

SMALL = Configuration("sm_80", Case(f16, 64, 64, 1, "causal"), 0, Tiles(64, 32, 4, 1))
TOO_LARGE = replace(SMALL, target="sm_90", case=Case(f16, 128, 128), tiles=Tiles(128, 256, 8, 2), descriptors="host")
SLOW = replace(SMALL, case=Case(f16, 256, 256), tiles=Tiles(256, 256, 4, 3))


@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
def test_any_beginning_of_the_sample_is_balanced(target: str) -> None:
    sample = list(islice(configurations(target), 400))
    assert sample[:100] == list(islice(configurations(target), 100))
    assert len({c.key for c in sample}) == len(sample)
    device = device_named(target)
    for start in (0, 200):
        part = sample[start : start + 200]
        reasons = Counter((refusal(c.config, shape_of(c), device) or "fits").split(" ", 1)[-1] for c in part)
        assert 80 <= reasons["fits"] <= 180
        assert sum("shared memory" in reason for reason in reasons.elements()) >= 8
        assert all(count >= 10 for count in Counter(c.case.width for c in part).values())
        assert len({c.case.form for c in part}) >= 8
        assert len({c.tiles.num_stages for c in part}) == 5
        assert 30 <= sum(c.rows > 0 for c in part) <= 100


@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
def test_tiles_are_written_whether_or_not_they_fit_and_the_formulas_know_the_kernel(target: str) -> None:
    for configuration in islice(configurations(target), 25):
        _, attention = scheduled(configuration)
        found = Schedule.of(attention)
        asked = configuration.schedule
        for name in ("block_m", "block_n", "num_warps", "num_stages", "descriptors", "target"):
            assert getattr(found, name) == getattr(asked, name)
        assert bool(configuration.rows) == found.few_rows
        shape = attention_shape(attention, few_rows=found.few_rows)
        assert shape_of(configuration) == as_scheduled(shape, found)


def of(configuration: Configuration, cpu_seconds: int = 0) -> CompileRecord:
    return collect_compiles.not_compiled(configuration, "made up")


def test_a_run_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Configuration] = []

    def compiled(configuration: Configuration, cpu_seconds: int) -> CompileRecord:
        if len(asked) == 3:
            raise KeyboardInterrupt
        asked.append(configuration)
        return of(configuration)

    monkeypatch.setattr(collect_compiles, "compiled_apart", compiled)
    out = tmp_path / "compiles.jsonl.gz"
    with pytest.raises(KeyboardInterrupt):
        collect("sm_80", 5, out)
    with out.open("ab") as file:
        file.write(gzip.compress(b"cut short")[:15])
    first = list(asked)
    asked.clear()
    assert collect("sm_80", 5, out) == 2
    assert collect("sm_80", 5, out) == 0
    sample = list(islice(configurations("sm_80"), 5))
    assert first + asked == sample
    assert [Configuration.of(record) for record in read_compiles(out)] == sample
    (section,) = read_sections(out)
    assert section.header.command.endswith("--target sm_80 --count 5")
    assert str(tmp_path) not in section.header.command


def test_parts_are_disjoint_and_the_whole_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect_compiles, "compiled_apart", of)
    paths = [tmp_path / f"{part}.jsonl.gz" for part in range(2)]
    for part, path in enumerate(paths):
        assert main(["--target", "sm_90", "--count", "7", "--out", str(path), "--part", f"{part}/2"]) == 0
    found = [Configuration.of(record).key for record in read_compiles(*paths)]
    assert sorted(found) == sorted(c.key for c in islice(configurations("sm_90"), 7))


def test_a_compiler_that_takes_too_long_is_stopped_and_recorded() -> None:
    record = compiled_apart(SLOW, cpu_seconds=1)
    assert record.failed == TIMEOUT
    assert record.registers == 0
    assert Configuration.of(record) == SLOW


def test_a_compiler_that_crashes_takes_nothing_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(configuration: Configuration) -> None:
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGUSR1)

    monkeypatch.setattr(collect_compiles, "compiled_record", crash)
    assert compiled_apart(SMALL).failed.startswith("the compiler died of signal 10")


def test_what_the_compiler_made_is_recorded() -> None:
    record = compiled_apart(SMALL)
    assert record.failed == ""
    assert Configuration.of(record) == SMALL
    assert 32 < record.registers <= 255
    assert record.spills == record.loop_spills == record.stack == 0
    assert record.shared == record.predicted > 0
    assert len(record.loops) == 2 and record.length > sum(record.loops)
    assert record.instructions["matrix"] >= 32 and set(record.instructions) <= {*CLASSES, "integer"}
    assert sum(record.instructions.values()) in record.loops
    assert 0 < record.compile_seconds < 60
    assert AttentionShape(**record.shape) == shape_of(SMALL)


@pytest.mark.slow
def test_too_much_shared_memory_is_a_failure_with_all_numbers() -> None:
    record = compiled_record(TOO_LARGE)
    assert record.failed == f"needs {record.shared} B of shared memory, sm_90 has 232448"
    assert record.shared <= record.predicted < record.shared + 1025
    assert record.registers > 0
    kernel, planned = lowered(TOO_LARGE)
    assert kernel.name == "tile.kernel" and planned == record.schedule
