"""Files of measurements: what is written is read again, ends of programs lose nothing, damage is named."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from attir.cost_model.dataset import (
    COMPILES,
    CPU_TIMES,
    DATA,
    CaseFields,
    CompileRecord,
    Header,
    Record,
    TimeRecord,
    Writer,
    header_value,
    pack,
    read_compiles,
    read_sections,
    read_times,
    record_of,
    record_value,
    recover,
    schedule_of,
    schedule_value,
)
from attir.cost_model.problem import Sizes
from attir.cost_model.schedule import Schedule
from attir.ir.diagnostics import CompileError

HEADER = Header(CPU_TIMES, "some CPU", {"attir": "0"}, "2026-01-01", "a command")
SCHEDULE = Schedule(64, 32, 1, 1, target="avx512", reason="so", lanes=16, columns=4, edge_n=16)
CASE = CaseFields("f32", 64, 64, 1, "causal")
TIME = TimeRecord(
    "f32 D64 g1 prefill: causal", CASE, Sizes(1, 8, 8, 100, 100), 0, SCHEDULE, 1.5e-3, 1e-3, 1.5, 0.01, 20, 1e-4
)
COMPILE = CompileRecord(
    "f", CASE, "sm_90", "3.6.0", 0, Schedule(64, 64, 4, 2), registers=168, spills=3, loop_spills=1, shared=5000,
    loops=(12, 40), instructions={"matrix": 8}, compile_seconds=1.5, shape={"key_width": 64},
)  # fmt: skip


def bare(record: TimeRecord) -> TimeRecord:
    """As it is read again: reasons are not kept."""
    return replace(record, schedule=replace(record.schedule, reason=""))


def written(path: Path, *values: Mapping[str, Any] | str) -> Path:
    lines = [value if isinstance(value, str) else json.dumps(value) for value in values]
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "times.jsonl.gz"


# --- there and back


def test_what_is_written_is_read_again(path: Path) -> None:
    Writer(path, HEADER).write([TIME, replace(TIME, rows=4)])
    (section,) = read_sections(path)
    assert section.header == HEADER
    assert section.records == [bare(TIME), bare(replace(TIME, rows=4))]
    assert read_times(path) == section.records and read_compiles(path) == []


def test_compiles_are_read_again(path: Path) -> None:
    Writer(path, replace(HEADER, kind=COMPILES)).write([COMPILE])
    assert read_compiles(path) == [COMPILE] and read_times(path) == []


def test_records_are_compact() -> None:
    value = record_value(replace(TIME, seconds=1.23456e-3, machine=0.0))
    assert value["seconds"] == 1.235e-3 and value["sizes"] == "1x8x8x100x100"
    assert "machine" not in value and "threads" not in value
    assert value["schedule"] == {
        "block_m": 64, "block_n": 32, "num_warps": 1, "num_stages": 1, "target": "avx512", "lanes": 16, "columns": 4,
        "edge_n": 16,
    }  # fmt: skip
    assert schedule_of(schedule_value(SCHEDULE)) == replace(SCHEDULE, reason="")


def test_later_writes_go_on_in_the_same_section_and_others_begin_one(path: Path) -> None:
    Writer(path, HEADER).write([TIME])
    again = Writer(path, HEADER)
    assert again.records == [bare(TIME)]
    again.write([TIME])
    again.write([TIME])
    Writer(path, replace(HEADER, date="2026-01-02")).write([TIME])
    assert [len(section.records) for section in read_sections(path)] == [3, 1]


def test_packing_keeps_every_record_and_joins_sections(path: Path) -> None:
    later = replace(HEADER, date="2026-01-02")
    for header in (HEADER, later, HEADER):
        for number in range(20):
            Writer(path, header).write([replace(TIME, rounds=number)])
    before, size = read_times(path), path.stat().st_size
    pack(path)
    first, second = read_sections(path)
    assert (first.header, second.header) == (HEADER, later)
    assert (len(first.records), len(second.records)) == (40, 20)
    assert sorted(map(str, read_times(path))) == sorted(map(str, before))
    assert path.stat().st_size < size / 5
    packed = path.read_bytes()
    pack(path)
    assert path.read_bytes() == packed


# --- ends of programs, and damage


@pytest.mark.parametrize("lost", [1, 5, 30])
def test_a_write_that_was_cut_short_is_removed_and_work_goes_on(path: Path, lost: int) -> None:
    Writer(path, HEADER).write([TIME])
    whole = path.stat().st_size
    Writer(path, HEADER).write([replace(TIME, rows=1)])
    path.write_bytes(path.read_bytes()[:-lost])
    with pytest.raises(CompileError, match="ends in the middle of a write: it was truncated"):
        read_sections(path)
    again = Writer(path, HEADER)
    assert path.stat().st_size == whole and again.records == [bare(TIME)]
    again.write([replace(TIME, rows=2)])
    assert [record.rows for record in read_times(path)] == [0, 2]


def test_recovery_leaves_whole_files_alone(path: Path) -> None:
    assert recover(path) == 0
    Writer(path, HEADER).write([TIME])
    assert recover(path) == 0 and len(read_times(path)) == 1


def test_other_files_are_refused(path: Path) -> None:
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(CompileError, match=r"times\.jsonl\.gz is damaged: Not a gzipped file"):
        read_sections(path)
    with pytest.raises(CompileError, match=r"cannot read .*nowhere"):
        read_sections(path.with_name("nowhere"))


def test_a_file_that_is_none_of_ours_is_never_cut(path: Path) -> None:
    path.write_bytes(b"somebody's notes")
    with pytest.raises(CompileError, match="is damaged"):
        Writer(path, HEADER)
    assert path.read_bytes() == b"somebody's notes"


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_damaged_bytes_are_named_and_nothing_is_cut(path: Path, place: float) -> None:
    for number in range(9):
        Writer(path, HEADER).write([replace(TIME, rounds=number)] * 9)
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(CompileError, match=r"times\.jsonl\.gz"):
        Writer(path, HEADER)
    assert path.read_bytes() == data


def test_a_file_of_which_nothing_is_whole_is_not_emptied(path: Path) -> None:
    Writer(path, HEADER).write([TIME] * 50)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CompileError, match="truncated"):
        Writer(path, HEADER)
    assert path.stat().st_size > 0


HEAD, BODY = header_value(HEADER), record_value(TIME)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([{**HEAD, "schema": 9}], "times.jsonl.gz:1: schema 9, but this version of attir reads 1"),
        ([{**HEAD, "kind": "dreams"}], "kind 'dreams'; expected cpu_times, gpu_times, compiles"),
        ([{k: v for k, v in HEAD.items() if k != "machine"}], "lacks machine"),
        ([BODY], "a record stands before any header"),
        ([HEAD, "{"], "gz:2: no JSON"),
        ([HEAD, "[]"], "expected an object, but this is list"),
        ([HEAD, {k: v for k, v in BODY.items() if k != "ratio"}], "gz:2: lacks ratio"),
        ([HEAD, {**BODY, "colour": 1}], "unknown fields colour"),
        ([HEAD, {**BODY, "rows": "4"}], "'rows' must be int, but is '4'"),
        ([HEAD, {**BODY, "rows": True}], "'rows' must be int, but is True"),
        ([HEAD, {**BODY, "seconds": 0.0}], "seconds and ratio must be positive"),
        ([HEAD, {**BODY, "seconds": float("nan")}], "seconds and ratio must be positive"),
        ([HEAD, {**BODY, "sizes": "1x2"}], "sizes must be BATCHxHEADS"),
        ([HEAD, {**BODY, "case": None}], "case: expected an object with fields, but this is None"),
        ([HEAD, {**BODY, "case": {**BODY["case"], "width": 1.5}}], "'width' must be int, but is 1.5"),
        ([HEAD, {**BODY, "schedule": {"block_m": 64}}], "schedule: lacks block_n, num_warps, num_stages"),
        ([HEAD, {**BODY, "schedule": {**BODY["schedule"], "block_q": 1}}], "unknown fields block_q"),
    ],
)
def test_bad_lines_are_named(path: Path, lines: list[dict[str, Any] | str], message: str) -> None:
    with pytest.raises(CompileError) as raised:
        read_sections(written(path, *lines))
    assert message in str(raised.value)


def test_kinds_have_their_own_fields() -> None:
    assert record_of(record_value(COMPILE), COMPILES) == COMPILE
    with pytest.raises(CompileError, match="lacks target, triton"):
        record_of(BODY, COMPILES)


def test_reading_needs_no_torch() -> None:
    script = "import sys, attir.cost_model.dataset, attir.cost_model.families; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)


# --- the files that come with attir


def test_committed_times_are_whole_and_say_where_they_are_from() -> None:
    sections = [section for path in sorted(DATA.glob("cpu_times.*.jsonl.gz")) for section in read_sections(path)]
    records: list[Record] = [record for section in sections for record in section.records]
    assert len(records) >= 3000
    for header in (section.header for section in sections):
        assert header.machine and header.date and header.command.startswith("python -m attir tune --collect")
        assert {"attir", "torch", "torch-mlir", "python"} <= header.versions.keys()
    assert sum(path.stat().st_size for path in DATA.glob("cpu_times.*")) < 1 << 19
