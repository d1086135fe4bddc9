"""The tuning cache with many processes, and with processes that are killed while they write."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from unit.compiler import tuning_writer

from attir.compiler.tuning_cache import TuningCache
from attir.compiler.tuning_database import FILE, SCHEMA
from attir.compiler.tuning_entries import MEASUREMENT, PLAN, every, good
from attir.compiler.tuning_upkeep import wrong

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:attir")]

WRITERS, PLANS, KILLS = 8, 40, 100


def writers(folder: Path, count: int, plans: int) -> list[subprocess.Popen[str]]:
    command = [sys.executable, tuning_writer.__file__, str(folder)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return [
        subprocess.Popen([*command, str(n), str(plans)], stdout=subprocess.PIPE, text=True, env=environment)
        for n in range(count)
    ]


def said(process: subprocess.Popen[str]) -> list[str]:
    return process.communicate(timeout=300)[0].split()


def test_processes_write_at_once_and_nothing_is_lost(tmp_path: Path) -> None:
    processes = writers(tmp_path / "cache", WRITERS, PLANS)
    for process in processes:
        assert said(process) == ["ready", *map(str, range(PLANS))]
        assert process.returncode == 0
    cache = TuningCache(tmp_path / "cache")
    entries = list(good(cache.database.read(every, [])))
    kinds = [e.kind for e in entries]
    assert (kinds.count(PLAN), kinds.count(MEASUREMENT)) == (WRITERS * PLANS, 2 * WRITERS * PLANS)
    assert wrong(cache.database) == []


def forked_writer(folder: Path, writer: int, into: int) -> int:
    """A child that writes until it is killed, and tells `into` of what is committed; its process."""
    child = os.fork()
    if child == 0:
        try:
            os.dup2(into, 1)
            sys.stdout = os.fdopen(1, "w")
            tuning_writer.main(str(folder), writer, 10**6)
        finally:
            os._exit(1)
    return child


def test_nothing_committed_is_lost_by_killing(tmp_path: Path) -> None:
    folder, chosen = tmp_path / "cache", random.Random(0)
    committed: dict[int, int] = {}
    for writer in range(KILLS):
        source, into = os.pipe()
        # Two write at once, and one of them is killed first.
        children = [forked_writer(folder, writer, into), forked_writer(folder, KILLS + writer, os.open(os.devnull, 1))]
        os.close(into)
        with os.fdopen(source) as lines:
            assert lines.readline() == "ready\n"
            time.sleep(chosen.random() * 0.03)
            for child in children:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            committed[writer] = len(lines.read().split())
    cache = TuningCache(folder)
    for writer, count in committed.items():
        for number in range(count):
            key = tuning_writer.key(writer, number)
            assert cache.plan(key).found is not None, (writer, number)
            assert len(cache.measurements(key)) == 2
    assert sum(committed.values()) > KILLS
    assert wrong(cache.database) == []
    assert not list(folder.glob(f"{FILE}.broken-*"))


def test_processes_that_meet_garbage_set_it_aside_once(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o700)
    (folder / FILE).write_bytes(b"garbage" * 5000)
    processes = writers(folder, WRITERS, 10)
    for process in processes:
        assert said(process) == ["ready", *map(str, range(10))]
    cache = TuningCache(folder)
    assert sum(e.kind == PLAN for e in good(cache.database.read(every, []))) == WRITERS * 10
    assert [path.name for path in folder.glob("*.broken-*")] == [f"{FILE}.broken-1"]


def test_a_file_that_is_damaged_while_it_is_used_stops_nobody(tmp_path: Path) -> None:
    cache, chosen = TuningCache(tmp_path / "cache"), random.Random(0)
    for damage in range(30):
        for number in range(20):
            key = tuning_writer.key(damage, number)
            cache.keep_plan(key, {"filling": "x" * 500})
            assert cache.plan(key).found in (None, {"filling": "x" * 500})
        content = bytearray(cache.database.path.read_bytes())
        for _ in range(50):
            content[chosen.randrange(len(content))] ^= 1 << chosen.randrange(8)
        cache.database.close()
        cache.database.path.write_bytes(content)
        for number in range(20):
            assert cache.plan(tuning_writer.key(damage, number)).found in (None, {"filling": "x" * 500})
    assert cache.problem == "" or f"schema {SCHEMA}" not in cache.problem
