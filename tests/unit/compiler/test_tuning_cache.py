"""What is kept is found again, a miss says which part differs, and bad files stop nobody."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from attir.compiler import private_files, tuning_database
from attir.compiler.kernel_cache import source_file, write_atomically
from attir.compiler.tuning_cache import LONGEST_LOG, TuningCache, lookups_in_words, tuning_cache
from attir.compiler.tuning_database import APPLICATION, FILE, SCHEMA, Database
from attir.compiler.tuning_entries import PLAN, Entry, entry, every, good, put
from attir.compiler.tuning_keys import Key
from attir.compiler.version import VERSION
from attir.compiler.warn_once import warn_once

KEY = Key("0123456789abcdef", "1x8x8x1024x1024", "", "a device", "tools 1")
PLAN_32: Mapping[str, Any] = {"schedule": {"block_m": 32}, "source": "measured"}


@pytest.fixture(autouse=True)
def said() -> Iterator[list[warnings.WarningMessage]]:
    """The warnings of a test, each text once."""
    warn_once.cache_clear()
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        yield found
    warn_once.cache_clear()


@pytest.fixture
def cache(tmp_path: Path) -> TuningCache:
    return TuningCache(tmp_path / "cache")


def reopened(cache: TuningCache) -> TuningCache:
    """As another process sees it."""
    cache.database.close()
    return TuningCache(cache.database.folder)


def changed(cache: TuningCache, statement: str, *values: object) -> None:
    """Run a statement on the file behind the back of the cache."""
    cache.database.close()
    with closing(sqlite3.connect(cache.database.path)) as connection:
        connection.execute(statement, values)
        connection.commit()


# --- what is found, and why not


def test_a_plan_is_found_by_another_process(cache: TuningCache) -> None:
    cache.keep_plan(KEY, PLAN_32, support=5, seconds=1.5e-3)
    found = reopened(cache).plan(KEY)
    assert found.found == PLAN_32
    assert found.reason == "hit: measured in 5 rounds, 1.5 ms, just now"


@pytest.mark.parametrize(
    ("part", "value", "reason"),
    [
        ("ir", "another", "no plan for this attention"),
        ("version", "9.9.9", f"planned by attir {VERSION}, this is 9.9.9"),
        ("device", "b device", "other device: planned on a device, this is b device"),
        ("toolchain", "tools 2", "other toolchain: planned for tools 1, this is tools 2"),
        ("mask", "sparse", "no plan for masks of class 'sparse'; classes known: ''"),
        ("bucket", "1x8x8x1x64", "no plan for bucket 1x8x8x1x64; buckets known: 1x8x8x1024x1024, 1x8x8x2048x2048"),
    ],
)
def test_a_miss_says_which_part_differs(cache: TuningCache, part: str, value: str, reason: str) -> None:
    for bucket in (KEY.bucket, "1x8x8x2048x2048"):
        cache.keep_plan(replace(KEY, bucket=bucket), PLAN_32)
    assert cache.plan(replace(KEY, **{part: value})).reason == f"miss: {reason}"
    assert cache.plan(KEY).found == PLAN_32


def test_a_miss_compares_with_the_nearest_plan(cache: TuningCache) -> None:
    cache.keep_plan(replace(KEY, version="0.0.9"), PLAN_32)
    cache.keep_plan(replace(KEY, bucket="1x8x8x1x64"), PLAN_32)
    assert cache.plan(KEY).reason == f"miss: no plan for bucket {KEY.bucket}; buckets known: 1x8x8x1x64"


def test_two_parts_that_differ_are_both_named(cache: TuningCache) -> None:
    cache.keep_plan(replace(KEY, version="0.0.9", toolchain="tools 0"), PLAN_32)
    reason = f"miss: planned by attir 0.0.9, this is {VERSION}; other toolchain: planned for tools 0, this is tools 1"
    assert cache.plan(KEY).reason == reason


def test_few_of_many_buckets_are_named(cache: TuningCache) -> None:
    for keys in range(10, 30):
        cache.keep_plan(replace(KEY, bucket=f"1x1x1x1x{keys}"), PLAN_32)
    assert cache.plan(KEY).reason.endswith("1x1x1x1x13, 1x1x1x1x14 and 15 more")


def test_a_plan_with_more_measurements_stays(cache: TuningCache) -> None:
    cache.keep_plan(KEY, {"source": "measured"}, support=5)
    cache.keep_plan(KEY, {"source": "model"})
    assert cache.plan(KEY).found == {"source": "measured"}
    cache.keep_plan(KEY, {"source": "measured again"}, support=5)
    assert cache.plan(KEY).found == {"source": "measured again"}


def test_measurements_are_kept_by_schedule(cache: TuningCache) -> None:
    rows = [{"schedule": {"block_m": m}, "seconds": s, "rounds": 3} for m, s in ((16, 3.0), (32, 1.0), (64, 2.0))]
    cache.keep_measurements(KEY, rows)
    cache.keep_measurements(KEY, [{"schedule": {"block_m": 64}, "seconds": 0.5, "rounds": 1}])
    assert [row["seconds"] for row in reopened(cache).measurements(KEY)] == [1.0, 2.0, 3.0]
    cache.keep_measurements(KEY, [{"schedule": {"block_m": 64}, "seconds": 0.5, "rounds": 9}])
    assert [row["seconds"] for row in cache.measurements(KEY)] == [0.5, 1.0, 3.0]
    assert cache.measurements(replace(KEY, bucket="")) == []


def test_calibrations_are_of_a_device(cache: TuningCache) -> None:
    assert cache.calibration("a device", "rates").reason == "miss: no calibration 'rates' of any device"
    cache.keep_calibration("a device", "rates", {"peak": 1.0})
    cache.keep_calibration("a device", "rates", {"peak": 2.0})
    assert cache.calibration("a device", "rates").found == {"peak": 2.0}
    reason = "miss: other device: measured on a device, this is another"
    assert cache.calibration("another", "rates").reason == reason


def test_what_is_no_json_is_the_callers_mistake(cache: TuningCache) -> None:
    with pytest.raises(TypeError):
        cache.keep_plan(KEY, {"schedule": object()})


def test_lookups_are_told_in_words(cache: TuningCache) -> None:
    cache.plan(KEY)
    cache.plan(KEY)
    cache.calibration("a device", "rates")
    assert lookups_in_words(cache) == [
        "plan 0123456789abcdef 1x8x8x1024x1024: miss: no plan for this attention (2 times)",
        "calibration a device: miss: no calibration 'rates' of any device",
    ]
    assert cache.lookups.maxlen == LONGEST_LOG


def test_hits_and_misses_are_counted_across_processes(cache: TuningCache) -> None:
    for _ in range(2):
        cache.plan(KEY)
        cache.keep_plan(KEY, PLAN_32)
        cache.plan(KEY)
        cache.flush()
        cache = reopened(cache)
    counts = cache.database.read(lambda c: dict(c.execute("SELECT * FROM counters").fetchall()), {})
    assert counts == {"plan hit": 3, "plan miss": 1}


@pytest.mark.parametrize("made", [0.0, -1e12, 1e18])
def test_clocks_are_for_display_only(cache: TuningCache, made: float) -> None:
    one = replace(entry(PLAN, KEY, "", PLAN_32), made=made)
    cache.database.write(lambda connection: put(connection, one, replace_equal=True), "")
    assert cache.plan(KEY).found == PLAN_32
    cache.keep_plan(KEY, {"source": "later"})
    assert cache.plan(KEY).found == {"source": "later"}


def test_the_process_has_one_cache_for_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTIR_CACHE_DIR", str(tmp_path / "a"))
    first = tuning_cache()
    assert tuning_cache() is first
    monkeypatch.setenv("ATTIR_CACHE_DIR", str(tmp_path / "b"))
    assert tuning_cache() is not first


# --- damaged rows and files


def test_a_row_that_was_changed_is_deleted_and_not_used(cache: TuningCache) -> None:
    cache.keep_plan(KEY, PLAN_32)
    changed(cache, "UPDATE entries SET value = '{}'")
    assert cache.plan(KEY).reason == "miss: what was kept does not fit its checksum; it was deleted"
    assert cache.plan(KEY).reason == "miss: no plan for this attention"


@pytest.mark.parametrize("column", ["value", "support", "spread", "seconds", "made", "checksum"])
@pytest.mark.parametrize("value", ["x", 7.5, b"bytes", None, "[" * 100_000])
def test_no_column_can_be_changed(cache: TuningCache, column: str, value: object) -> None:
    cache.keep_plan(KEY, PLAN_32, support=2, seconds=1.0)
    try:
        changed(cache, f"UPDATE entries SET {column} = ?", value)
    except sqlite3.IntegrityError:
        return
    assert cache.plan(KEY).found is None
    assert cache.problem == ""


def test_a_plan_moved_to_another_key_is_not_used(cache: TuningCache) -> None:
    cache.keep_plan(KEY, PLAN_32)
    changed(cache, "UPDATE entries SET device = 'b device'")
    assert cache.plan(replace(KEY, device="b device")).found is None


def test_json_that_is_no_object_is_not_used(cache: TuningCache) -> None:
    one = Entry(PLAN, KEY, "", "[1]")
    cache.database.write(lambda connection: put(connection, one, replace_equal=True), "")
    assert cache.plan(KEY).reason == "miss: what was kept is not an object in JSON; it was deleted"


@pytest.mark.parametrize("content", [b"garbage" * 1000, b"SQLite format 3\0" + b"\xff" * 5000])
def test_garbage_is_set_aside_and_work_goes_on(
    cache: TuningCache, content: bytes, said: list[warnings.WarningMessage]
) -> None:
    for number in (1, 2):
        cache.keep_plan(KEY, PLAN_32)
        cache.database.close()
        cache.database.path.write_bytes(content)
        assert cache.plan(KEY).found is None
        cache.keep_plan(KEY, PLAN_32)
        assert cache.plan(KEY).found == PLAN_32
        assert cache.database.path.with_name(f"{FILE}.broken-{number}").read_bytes() == content
    assert cache.problem == ""
    assert [f"broken-{n}" in str(w.message) for n, w in enumerate(said, start=1)] == [True, True]
    assert reopened(cache).plan(KEY).found == PLAN_32


@pytest.mark.parametrize("part", [0.0, 0.01, 0.3, 0.6, 0.99])
def test_a_truncated_file_loses_plans_but_nothing_else(cache: TuningCache, part: float) -> None:
    for keys in range(400):
        cache.keep_plan(replace(KEY, bucket=f"1x1x1x1x{keys}"), PLAN_32)
    cache.database.close()
    size = cache.database.path.stat().st_size
    os.truncate(cache.database.path, int(size * part))
    for keys in range(400):
        found = cache.plan(replace(KEY, bucket=f"1x1x1x1x{keys}")).found
        assert found in (None, PLAN_32)
    cache.keep_plan(KEY, PLAN_32)
    assert reopened(cache).plan(KEY).found == PLAN_32


def test_another_programs_database_is_set_aside(cache: TuningCache) -> None:
    cache.database.folder.mkdir(mode=0o700)
    changed(cache, "CREATE TABLE entries (a)")
    cache.keep_plan(KEY, PLAN_32)
    assert "is another program's database: it was set aside" in cache.database.notes[0]
    assert reopened(cache).plan(KEY).found == PLAN_32


def test_triggers_in_the_file_do_not_run(cache: TuningCache) -> None:
    cache.keep_plan(KEY, PLAN_32)
    changed(cache, "CREATE TRIGGER t AFTER INSERT ON entries BEGIN DELETE FROM entries; END")
    cache.keep_plan(KEY, PLAN_32)
    assert cache.plan(KEY).found == PLAN_32
    assert "another program's" in cache.database.notes[0]


def test_a_newer_schema_is_not_touched(cache: TuningCache) -> None:
    cache.keep_plan(KEY, PLAN_32)
    changed(cache, f"PRAGMA user_version = {SCHEMA + 1}")
    before = cache.database.path.read_bytes()
    assert cache.plan(KEY).found is None
    cache.keep_plan(KEY, PLAN_32)
    assert cache.plan(KEY).found == PLAN_32
    assert cache.problem.endswith(f"was made by a newer attir (schema {SCHEMA + 1}; this one knows {SCHEMA}): "
                                  "it is not touched")  # fmt: skip
    assert cache.database.path.read_bytes() == before


def test_two_versions_share_a_folder(cache: TuningCache) -> None:
    old = replace(KEY, version="0.0.9")
    cache.keep_plan(old, {"source": "old"}, support=9)
    cache.keep_plan(KEY, {"source": "new"})
    assert cache.plan(old).found == {"source": "old"}
    assert cache.plan(KEY).found == {"source": "new"}


def test_a_file_that_another_process_sets_aside_is_left(cache: TuningCache) -> None:
    cache.keep_plan(KEY, PLAN_32)
    other = TuningCache(cache.database.folder)
    other.keep_plan(KEY, PLAN_32)
    for ending in ("-wal", "-shm", ""):
        path = cache.database.path.with_name(FILE + ending)
        path.rename(path.with_name(f"{FILE}.broken-1{ending}"))
    cache.keep_plan(KEY, {"source": "in the new file"})
    assert other.plan(KEY).found == {"source": "in the new file"}
    assert reopened(other).plan(KEY).found == {"source": "in the new file"}


# --- places that cannot be written


def test_without_a_folder_plans_live_in_memory(tmp_path: Path, said: list[warnings.WarningMessage]) -> None:
    (tmp_path / "file").write_text("no folder")
    cache = TuningCache(tmp_path / "file" / "cache")
    for _ in range(3):
        cache.keep_plan(KEY, PLAN_32)
        assert cache.plan(KEY).found == PLAN_32
    assert "cannot be written (Not a directory); set ATTIR_CACHE_DIR" in cache.problem
    assert len(said) == 1


def test_a_read_only_file_is_read(cache: TuningCache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.keep_plan(KEY, PLAN_32)
    cache = reopened(cache)

    def refuse(path: Path) -> None:
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr(tuning_database, "make_private_file", refuse)
    assert cache.plan(KEY).found == PLAN_32
    other = replace(KEY, bucket="1x1x1x1x1")
    cache.keep_plan(other, PLAN_32)
    assert cache.plan(other).found == PLAN_32
    assert "Read-only file system" in cache.problem
    monkeypatch.undo()
    assert reopened(cache).plan(other).found is None


def test_a_full_disk_loses_nothing_that_was_kept(cache: TuningCache, said: list[warnings.WarningMessage]) -> None:
    cache.keep_plan(KEY, PLAN_32)
    pages = cache.database.read(lambda c: c.execute("PRAGMA page_count").fetchone()[0], 0)
    cache.database.read(lambda c: c.execute(f"PRAGMA max_page_count = {pages + 2}").fetchone(), None)
    keys = [replace(KEY, bucket=f"1x1x1x1x{n}") for n in range(200)]
    for key in keys:
        cache.keep_plan(key, PLAN_32)
    assert "database or disk is full" in cache.problem
    assert all(cache.plan(key).found == PLAN_32 for key in (KEY, *keys))
    assert len(said) == 1
    kept = [reopened(cache).plan(key).found for key in (KEY, *keys)]
    assert kept[0] == PLAN_32 and kept[-1] is None


def test_a_database_that_stays_locked_is_no_error(cache: TuningCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning_database, "WAIT", 0.05)
    cache.keep_plan(KEY, PLAN_32)
    with closing(sqlite3.connect(cache.database.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        cache = reopened(cache)
        assert cache.plan(KEY).found == PLAN_32
        cache.keep_plan(KEY, {"source": "here"})
        assert cache.plan(KEY).found == {"source": "here"}
    assert "database is locked" in cache.problem


# --- who may write, who else did


def test_files_are_for_this_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.umask(0)
    try:
        cache = TuningCache(tmp_path / "a" / "b")
        cache.keep_plan(KEY, PLAN_32)
        write_atomically(tmp_path / "a" / "b" / "objects" / "file", b"x")
    finally:
        os.umask(before)
    paths = list((tmp_path / "a").rglob("*"))
    assert len(paths) >= 5
    for path in (tmp_path / "a", *paths):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


@pytest.mark.parametrize("which", ["", FILE])
def test_what_others_may_write_is_not_used(cache: TuningCache, which: str) -> None:
    cache.keep_plan(KEY, PLAN_32)
    path = cache.database.folder / which
    path.chmod(0o777 if not which else 0o666)
    cache = reopened(cache)
    assert cache.plan(KEY).found is None
    assert f"others may write to {path}" in cache.problem
    assert f"chmod go-rwx '{path}'" in cache.problem
    path.chmod(0o700 if not which else 0o600)
    assert reopened(cache).plan(KEY).found == PLAN_32


def test_what_others_may_read_becomes_private(cache: TuningCache) -> None:
    cache.keep_plan(KEY, PLAN_32)
    cache.database.path.chmod(0o644)
    assert reopened(cache).plan(KEY).found == PLAN_32
    assert cache.database.path.stat().st_mode & 0o777 == 0o600


def test_what_belongs_to_another_user_is_not_used(cache: TuningCache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.keep_plan(KEY, PLAN_32)
    cache = reopened(cache)
    found = cache.database.folder.stat()
    foreign = os.stat_result((*found[:4], 4321, *found[5:]))
    monkeypatch.setattr(private_files, "_status", lambda path: foreign)  # pyright: ignore
    assert cache.plan(KEY).found is None
    assert "belongs to user 4321, not to this user" in cache.problem


def test_a_changed_kernel_file_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTIR_CACHE_DIR", str(tmp_path))
    path = source_file("x = 1\n", "kernel")
    path.write_text("x = 2\n")
    assert source_file("x = 1\n", "kernel") == path
    assert path.read_text() == "x = 1\n"


def test_kernels_are_not_put_where_others_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[warnings.WarningMessage]
) -> None:
    monkeypatch.setenv("ATTIR_CACHE_DIR", str(tmp_path))
    tmp_path.chmod(0o777)
    path = source_file("x = 1\n", "kernel")
    assert tmp_path not in path.parents
    assert path.read_text() == "x = 1\n"
    assert "kernels are not kept: others may write to" in str(said[0].message)


# --- threads and children


def test_threads_share_a_cache(cache: TuningCache) -> None:
    def work(number: int) -> None:
        for n in range(20):
            key = replace(KEY, bucket=f"{number}x1x1x1x{n}")
            cache.keep_plan(key, PLAN_32)
            assert cache.plan(key).found == PLAN_32

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(good(reopened(cache).database.read(every, [])))) == 160


def test_a_child_opens_a_connection_of_its_own(cache: TuningCache) -> None:
    cache.keep_plan(KEY, PLAN_32)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            cache.keep_plan(replace(KEY, bucket="of the child"), PLAN_32)
            code = 0 if cache.plan(KEY).found == PLAN_32 else 2
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    cache.keep_plan(replace(KEY, bucket="of the parent"), PLAN_32)
    known = {e.key.bucket for e in good(reopened(cache).database.read(every, []))}
    assert known == {KEY.bucket, "of the child", "of the parent"}


def test_forks_while_threads_write_do_not_hang(cache: TuningCache) -> None:
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            cache.keep_plan(KEY, PLAN_32)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            child = os.fork()
            if child == 0:
                os._exit(0 if cache.plan(KEY).reason else 1)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_the_file_says_whose_it_is(cache: TuningCache) -> None:
    cache.keep_plan(KEY, PLAN_32)
    assert json.dumps(cache.database.read(tuning_database.schema_of, None)).startswith(f"[{APPLICATION}, {SCHEMA}, ")
    assert Database(cache.database.folder).path == cache.database.path
