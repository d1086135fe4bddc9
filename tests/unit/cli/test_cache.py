"""`attir cache`: what it lists, carries, checks and deletes, and one message for each mistake."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from unit.cli.command_line import Attir

from attir.compiler import cache_command
from attir.compiler.native_cache import cache_key, cached_object, object_path
from attir.compiler.tuning_cache import TuningCache, tuning_cache
from attir.compiler.tuning_database import FILE
from attir.compiler.tuning_keys import Key, device_fingerprint
from attir.compiler.version import VERSION

HERE = device_fingerprint("interpret")
KEY = Key("0123456789abcdef", "1x8x8x1024x1024", "", HERE, "tools 1")
ELSEWHERE = replace(KEY, device="sm_00, another GPU")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with two plans, two measurements, a calibration and an object."""
    monkeypatch.setenv("ATTIR_CACHE_DIR", str(tmp_path / "cache"))
    cache = tuning_cache()
    cache.keep_plan(KEY, {"schedule": {"block_m": 32}, "source": "measured"}, support=5, seconds=1e-3)
    cache.keep_plan(ELSEWHERE, {"schedule": {"block_m": 64}, "source": "model"})
    rows = [{"schedule": {"block_m": m}, "seconds": m * 1e-4, "rounds": 3} for m in (16, 32)]
    cache.keep_measurements(KEY, rows)
    cache.keep_calibration(HERE, "rates", {"peak": 1.0})
    cached_object("text", lambda: b"code", tmp_path / "cache" / "objects")
    cache.database.close()
    return tmp_path / "cache"


def changed(folder: Path, statement: str) -> None:
    with closing(sqlite3.connect(folder / FILE)) as connection:
        connection.execute(statement)
        connection.commit()


def test_ls_has_a_line_for_each_program_size_and_kind(attir: Attir, folder: Path) -> None:
    out = attir("cache", "ls").out.splitlines()
    assert out[0] == HERE
    assert out[1].split() == ["kind", "program", "bucket", "mask", "source", "rounds", "time", "age", "attir"]
    assert out[2].split() == ["calibration", "rates", "just", "now", VERSION]
    assert out[3] == f"{HERE}, tools 1"
    measured, planned = (line.split() for line in out[5:7])
    assert measured[:7] == ["measurement", KEY.ir, KEY.bucket, "2", "schedules", "6", "1.6"]
    assert planned[:7] == ["plan", KEY.ir, KEY.bucket, "measured", "5", "1", "ms"]
    assert out[7] == "sm_00, another GPU, tools 1"
    rows = json.loads(attir("cache", "ls", "--device", "sm_00", "--json").out)
    assert [row["device"] for row in rows] == [ELSEWHERE.device]
    assert "nothing is kept" in attir("cache", "ls", "--device", "sm_99").out


def test_show_prints_all_of_it(attir: Attir, folder: Path) -> None:
    out = attir("cache", "show", "0123").out
    assert out.count("kind       plan") == 2
    assert out.count("kind       measurement") == 2
    assert '  schedule: {"block_m": 64}' in out
    (shown,) = json.loads(attir("cache", "show", "rates", "--json").out)
    assert shown["value"] == {"peak": 1.0}
    missing = attir("cache", "show", "fff")
    assert missing.code == 1
    assert "nothing is kept under 'fff'; `attir cache ls` lists the keys" in missing.err


def test_stats_count(attir: Attir, folder: Path) -> None:
    cache = TuningCache(folder)
    cache.plan(KEY)
    cache.plan(replace(KEY, bucket=""))
    cache.flush()
    found = json.loads(attir("cache", "stats", "--json").out)
    assert found["entries"] == {"calibration": 1, "measurement": 2, "object": 1, "plan": 2}
    assert found["lookups"] == {"plan hit": 1, "plan miss": 1}
    assert (found["objects"], found["set_aside"]) == (1, 0)
    assert found["database_bytes"] > 0 and found["object_bytes"] > 4
    assert "lookups          1 plan hit, 1 plan miss" in attir("cache", "stats").out


def test_an_export_is_imported_elsewhere(attir: Attir, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = folder.parent / "exported"
    out = attir("cache", "export", str(file)).out
    assert out == f"4 entries are in {file}; 1 of other devices are not in it (--all)\n"
    monkeypatch.setenv("ATTIR_CACHE_DIR", str(folder.parent / "other"))
    out = attir("cache", "import", str(file)).out
    assert out == f"{file}: 4 new, 0 better supported than those there were, 0 not better and left out\n"
    assert TuningCache(folder.parent / "other").plan(KEY).reason.startswith("hit: measured in 5 rounds, 1 ms")
    assert "0 new, 0 better supported than those there were, 4 not better" in attir("cache", "import", str(file)).out


def test_entries_of_other_devices_are_kept_and_said(attir: Attir, folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "exported"
    attir("cache", "export", "--all", str(file))
    attir("cache", "clear", "--yes")
    out = attir("cache", "import", str(file)).out
    assert out.endswith("1 are of another device and of no use here: sm_00, another GPU\n")
    assert TuningCache(folder).plan(ELSEWHERE).found is not None


@pytest.mark.parametrize("form", ["exported", "folder", "database"])
def test_merging_keeps_what_is_supported_better(attir: Attir, folder: Path, tmp_path: Path, form: str) -> None:
    other = TuningCache(tmp_path / "other")
    other.keep_plan(KEY, {"source": "better"}, support=9)
    other.keep_plan(ELSEWHERE, {"source": "worse", "spread": 0.5})
    other.database.close()
    source = {"folder": tmp_path / "other", "database": tmp_path / "other" / FILE}.get(form, tmp_path / "exported")
    if form == "exported":
        source.write_text("")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("ATTIR_CACHE_DIR", str(tmp_path / "other"))
            attir("cache", "export", "--all", str(source))
    out = attir("cache", "merge", str(source)).out
    assert "0 new, 1 better supported than those there were, 1 not better and left out" in out
    assert TuningCache(folder).plan(KEY).found == {"source": "better"}
    assert (TuningCache(folder).plan(ELSEWHERE).found or {})["source"] == "model"


def test_explain_says_what_was_looked_up(attir: Attir, folder: Path, subjects: str) -> None:
    inputs = [part for name in "qkv" for part in ("--input", f"{name}=f32[1,2,64,32]")]
    done = attir("explain", "--cache", "--target", "avx512", f"{subjects}:causal", *inputs)
    assert done.code == 0, done.err
    line = next(line for line in done.out.splitlines() if line.startswith("plan "))
    assert " 1x2x2x64x64" in line and line.endswith(": miss: no plan for this attention")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("measured", "modelled", "is damaged: it does not fit its checksum"),
        ('"made"|"sha256".*', "", "is no exported tuning cache, or was cut off"),
        ("(?s).*", "no JSON", "is no exported tuning cache"),
        ("(?s).*", "{}\n{}\n", "is no exported tuning cache"),
        ('"schema": 1', '"schema": 7', "with schema 7; this one reads 1"),
        ("(?s).*", "[" * 100_000 + "\n", "is no exported tuning cache"),
    ],
)
def test_a_file_that_is_wrong_changes_nothing(attir: Attir, folder: Path, old: str, new: str, message: str) -> None:
    file = folder.parent / "exported"
    attir("cache", "export", str(file))
    file.write_text(re.sub(old, new, file.read_text(), count=1))
    before = attir("cache", "ls").out
    done = attir("cache", "import", str(file))
    assert (done.code, done.out) == (1, "")
    assert message in done.err
    assert attir("cache", "ls").out == before


def test_files_that_cannot_be_read_or_written_are_errors(attir: Attir, folder: Path) -> None:
    assert "No such file" in attir("cache", "import", str(folder / "missing")).err
    (folder / "file").write_text("")
    assert "cannot write" in attir("cache", "export", str(folder / "file" / "x")).err
    attir("cache", "clear", "--yes")
    assert "there is nothing to export: nothing is kept in" in attir("cache", "export", str(folder / "x")).err


def test_verify_finds_nothing_wrong(attir: Attir, folder: Path) -> None:
    done = attir("cache", "verify")
    assert (done.code, done.out) == (0, f"6 entries and 1 objects in {folder} are as they were written\n")


def test_verify_says_what_is_wrong(attir: Attir, folder: Path) -> None:
    changed(folder, "UPDATE entries SET value = '{}' WHERE kind = 'plan'")
    path = object_path(cache_key("text"), folder / "objects")
    path.write_bytes(path.read_bytes()[:-1] + b"X")
    (folder / "objects" / "renamed.object").write_bytes(b"short")
    done = attir("cache", "verify")
    assert done.code == 1
    assert done.out.count("does not fit its checksum") == 2
    assert f"{path}: the object was damaged" in done.out
    assert "renamed.object: the object was truncated" in done.out
    path.unlink()
    assert f"objects/{path.name} is listed, but there is no such file" in json.loads(
        attir("cache", "verify", "--json").out
    )


def test_verify_tells_of_a_database_that_was_set_aside(attir: Attir, folder: Path) -> None:
    (folder / FILE).write_bytes(b"garbage" * 999)
    done = attir("cache", "verify")
    assert done.code == 1
    assert "it was set aside as tuning.sqlite3.broken-1" in done.out


def test_prune_deletes_what_fits(attir: Attir, folder: Path) -> None:
    assert attir("cache", "prune", "--version", "0.0.1").out.startswith("0 entries went")
    assert attir("cache", "prune", "--older", "1").out.startswith("0 entries went")
    assert attir("cache", "prune", "--device", "sm_00").out.startswith("1 entries went, 0 of them compiled objects")
    assert TuningCache(folder).plan(ELSEWHERE).found is None
    assert attir("cache", "prune", "--version", VERSION, "--older", "0").out.startswith("5 entries went, 1 of them")
    assert list((folder / "objects").iterdir()) == []


def test_prune_to_a_size_deletes_the_oldest(attir: Attir, folder: Path) -> None:
    cache = TuningCache(folder)
    cache.keep_plan(KEY, {"source": "the newest"}, support=9)
    attir("cache", "prune", "--max-bytes", "300")
    assert cache.plan(KEY).found == {"source": "the newest"}
    assert cache.plan(ELSEWHERE).found is None
    attir("cache", "prune", "--max-bytes", "0")
    assert cache.plan(KEY).found is None


def test_prune_drops_entries_of_objects_that_are_gone(attir: Attir, folder: Path) -> None:
    object_path(cache_key("text"), folder / "objects").unlink()
    assert attir("cache", "prune", "--max-bytes", "1G").out.startswith("1 entries went")
    assert attir("cache", "verify").code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing says what is to go"),
        (("--older", "-1"), "expected a number of days from 0 on, but it is '-1'"),
        (("--older", "x"), "expected a number of days from 0 on, but it is 'x'"),
        (("--max-bytes", "1T"), "expected a number of bytes such as 500000, 500k, 20M or 2G, but it is '1T'"),
    ],
)
def test_prune_says_what_it_needs(attir: Attir, folder: Path, arguments: tuple[str, ...], message: str) -> None:
    done = attir("cache", "prune", *arguments)
    assert done.code in (1, 2)
    assert message in done.err


def test_clear_asks(attir: Attir, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "add --yes" in attir("cache", "clear").err
    monkeypatch.setattr(cache_command.sys.stdin, "isatty", lambda: True)
    answers = iter(("n", "y"))

    def answer(prompt: str) -> str:
        return next(answers)

    monkeypatch.setattr("builtins.input", answer)
    assert attir("cache", "clear").out == "nothing was deleted\n"
    assert "6 entries and objects were deleted" in attir("cache", "clear").out
    assert attir("cache", "ls").out == f"nothing is kept in {folder}\n"
    assert list((folder / "objects").iterdir()) == []


def test_a_cache_that_others_may_write_is_refused(attir: Attir, folder: Path) -> None:
    folder.chmod(0o777)
    done = attir("cache", "ls")
    assert done.code == 1
    assert f"the tuning cache cannot be used: others may write to {folder}" in done.err
