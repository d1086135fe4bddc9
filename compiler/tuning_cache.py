"""The tuning cache: plans, measurements and calibrations that outlive a process, each found or missed with a reason.

key = Key(canonical_key(module), str(sizes.bucket), "", device_fingerprint(target), toolchain(target))
found = tuning_cache().plan(key)      # Lookup(None, "miss: no plan for bucket ...") or Lookup({...}, "hit: ...")
"""

from __future__ import annotations

import atexit
import json
import os
import sqlite3
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..ir.core import Operation
from .host_cpu import host_target
from .kernel_cache import cache_directory
from .tuning_database import LOCK, Database
from .tuning_entries import (
    CALIBRATION,
    MEASUREMENT,
    OBJECT,
    PLAN,
    Damaged,
    Entry,
    entry,
    good,
    number,
    of_key,
    of_program,
    put,
    remove,
)
from .tuning_keys import Key, device_fingerprint, toolchain
from .version import VERSION

__all__ = ["Key", "Lookup", "TuningCache", "canonical_key", "device_fingerprint", "toolchain", "tuning_cache"]

LONGEST_LOG, MOST_NAMED = 10_000, 5
"""Lookups that are remembered, and buckets that a reason names."""

T = TypeVar("T")


@dataclass(frozen=True)
class Lookup:
    """What was found, None for nothing, and why: "hit: ..." or "miss: ..."."""

    found: Mapping[str, Any] | None
    reason: str


@dataclass(frozen=True)
class Asked:
    """One lookup, for those who want to know: what was asked for and what came of it."""

    kind: str
    key: Key
    lookup: Lookup


class TuningCache:
    """The cache in one folder. Nothing here fails because of the files; `problem` says what is wrong with them.

    Safe to use from several threads, processes and across forks. `lookups` tells of every lookup, oldest first.
    """

    def __init__(self, folder: Path) -> None:
        self.database = Database(folder)
        self.lookups: deque[Asked] = deque(maxlen=LONGEST_LOG)
        self._counts: Counter[str] = Counter()
        self._process = os.getpid()

    @property
    def problem(self) -> str:
        """Why nothing can be kept beyond this process, "" if it can."""
        return self.database.problem

    def plan(self, key: Key) -> Lookup:
        """The plan for exactly this key; a miss names the part of the key that differs from those of plans there are.

        What is found is for the reader to check.
        """
        found = self._read(lambda connection: of_key(connection, PLAN, key), key)
        if isinstance(found, str):
            return self._asked(PLAN, key, Lookup(None, f"miss: {found}"))
        for kept in found:
            return self._asked(PLAN, key, Lookup(kept.mapping, f"hit: {_origin(kept)}"))
        others = self._read(lambda connection: of_program(connection, PLAN, key.ir), key)
        reason = others if isinstance(others, str) else _why_not(key, others)
        return self._asked(PLAN, key, Lookup(None, f"miss: {reason}"))

    def keep_plan(self, key: Key, plan: Mapping[str, Any], *, support: int = 0, seconds: float | None = None) -> None:
        """Keep a plan unless one is there with more measurements behind it."""
        spread = number(plan.get("spread"))
        self._keep([entry(PLAN, key, "", plan, support=support, spread=spread, seconds=seconds)])

    def measurements(self, key: Key) -> list[Mapping[str, Any]]:
        """What was measured for exactly this key, fastest first."""
        found = self._read(lambda connection: of_key(connection, MEASUREMENT, key), key)
        count = 0 if isinstance(found, str) else len(found)
        reason = found if isinstance(found, str) else f"{count} measurements" if count else "nothing was measured"
        self._asked(MEASUREMENT, key, Lookup({"count": count} if count else None, f"{_word(count)}: {reason}"))
        if isinstance(found, str):
            return []
        return [e.mapping for e in sorted(found, key=lambda e: (number(e.seconds, float("inf")), e.name))]

    def keep_measurements(self, key: Key, rows: Sequence[Mapping[str, Any]]) -> None:
        """Keep times of schedules. Of two for one schedule stays the one of more rounds, and of as many the newer.

        Rows are as in data files: `schedule`, `seconds`, `spread`, `rounds`.
        """
        self._keep(
            entry(
                MEASUREMENT, key, json.dumps(row.get("schedule", row), sort_keys=True, separators=(",", ":")), row,
                support=int(number(row.get("rounds"), 1)), spread=number(row.get("spread")),
                seconds=number(row.get("seconds")) if "seconds" in row else None,
            )
            for row in rows
        )  # fmt: skip

    def calibration(self, device: str, name: str) -> Lookup:
        """What was measured of a device under `name`."""
        key = Key("", device=device)
        found = self._read(lambda connection: of_program(connection, CALIBRATION, ""), key)
        if isinstance(found, str):
            return self._asked(CALIBRATION, key, Lookup(None, f"miss: {found}"))
        for kept in found:
            if (kept.key.device, kept.name, kept.key.version) == (device, name, VERSION):
                return self._asked(CALIBRATION, key, Lookup(kept.mapping, f"hit: measured {age_in_words(kept.made)}"))
        same = [e for e in found if e.name == name]
        reason = _why_not(key, same, "calibration", "measured") if same else f"no calibration '{name}' of any device"
        return self._asked(CALIBRATION, key, Lookup(None, f"miss: {reason}"))

    def keep_calibration(self, device: str, name: str, values: Mapping[str, Any]) -> None:
        """Keep what was measured of a device, in the place of what was there."""
        self._keep([entry(CALIBRATION, Key("", device=device), name, values)])

    def keep_object(self, file: str, size: int) -> None:
        """Note that `objects/` has a file with code for this CPU, of so many bytes."""
        target = host_target()
        key = Key("", device=device_fingerprint(target), toolchain=toolchain(target))
        self._keep([entry(OBJECT, key, file, {"bytes": size})])

    def flush(self) -> None:
        """Write how often something was found and missed; nothing else waits to be written."""
        if self._process == os.getpid() and self._counts and not self.problem:
            self.database.write(self._count, None)

    # ---

    def _keep(self, entries: Sequence[Entry] | Any) -> None:
        every = list(entries)

        def work(connection: sqlite3.Connection) -> None:
            for one in every:
                put(connection, one, replace_equal=True)
            self._count(connection)

        self.database.write(work, None)

    def _count(self, connection: sqlite3.Connection) -> None:
        statement = "INSERT INTO counters VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET count = count + excluded.count"
        if self._process == os.getpid():
            connection.executemany(statement, list(self._counts.items()))
        self._counts.clear()
        self._process = os.getpid()

    def _read(self, work: Callable[[sqlite3.Connection], list[Entry | Damaged]], key: Key) -> list[Entry] | str:
        """The good entries among those that `work` finds, or why what is asked for is of no use.

        Damaged rows are deleted.
        """
        found = self.database.read(work, [])
        damaged = [e for e in found if isinstance(e, Damaged)]
        if damaged:
            self.database.write(lambda connection: remove(connection, [d.identity for d in damaged]), 0)
            if any(d.identity[1:7] == astuple(key) for d in damaged):
                return f"what was kept {damaged[0].reason}; it was deleted"
        return list(good(found))

    def _asked(self, kind: str, key: Key, lookup: Lookup) -> Lookup:
        with LOCK:
            self.lookups.append(Asked(kind, key, lookup))
            self._counts[f"{kind} {lookup.reason.partition(':')[0]}"] += 1
        return lookup


def _word(count: int) -> str:
    return "hit" if count else "miss"


def _origin(kept: Entry) -> str:
    """Where a plan came from, in words."""
    source = kept.mapping.get("source")
    words = [source if isinstance(source, str) and source else "kept"]
    if kept.support:
        words[0] += f" in {kept.support} rounds"
    if kept.seconds is not None:
        words.append(f"{1e3 * kept.seconds:.4g} ms")
    return ", ".join([*words, age_in_words(kept.made)])


def age_in_words(made: float) -> str:
    """How long ago, roughly; clocks may have been set back."""
    seconds = max(0.0, time.time() - made)
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'s' * (count > 1)} ago"
    return "just now"


def _why_not(key: Key, others: Sequence[Entry], what: str = "plan", made: str = "planned") -> str:
    """Which parts of `key` differ from those of the entry that is nearest to it."""
    if not others:
        return f"no {what} for this attention"
    nearest = min(others, key=lambda e: (_distance(key, e.key), *astuple(e.key)))
    same = [e.key for e in others if _distance(key, e.key) == _distance(key, nearest.key)]
    reasons = _differences(key, nearest.key, same, (what, made))
    return "; ".join(reasons) if reasons else f"no {what}"


_PARTS = ("version", "toolchain", "device", "mask", "bucket")
"""What may differ, from what makes all plans useless to what makes one."""


def _distance(key: Key, other: Key) -> tuple[bool, ...]:
    return tuple(getattr(key, part) != getattr(other, part) for part in _PARTS)


def _differences(key: Key, other: Key, same: Sequence[Key], words: tuple[str, str]) -> list[str]:
    (what, made), reasons = words, list[str]()
    if other.version != key.version:
        reasons.append(f"{made} by attir {other.version}, this is {key.version}")
    if other.toolchain != key.toolchain:
        reasons.append(f"other toolchain: {made} for {other.toolchain}, this is {key.toolchain}")
    if other.device != key.device:
        reasons.append(f"other device: {made} on {other.device}, this is {key.device}")
    if other.mask != key.mask:
        known = _named(sorted({k.mask for k in same}))
        reasons.append(f"no {what} for masks of class '{key.mask}'; classes known: {known}")
    if other.bucket != key.bucket:
        reasons.append(f"no {what} for bucket {key.bucket}; buckets known: {_named(sorted({k.bucket for k in same}))}")
    return reasons


def _named(texts: Sequence[str]) -> str:
    more = len(texts) - MOST_NAMED
    return ", ".join(text or "''" for text in texts[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def lookups_in_words(cache: TuningCache) -> list[str]:
    """Every lookup of this process, a line for each, equal ones once."""
    lines = [
        f"{asked.kind} {asked.key.ir or asked.key.device} {asked.key.bucket}".rstrip() + f": {asked.lookup.reason}"
        for asked in list(cache.lookups)
    ]
    counts = Counter(lines)
    return [line if count == 1 else f"{line} ({count} times)" for line, count in counts.items()]


_caches: dict[Path, TuningCache] = {}


def tuning_cache() -> TuningCache:
    """The cache of the current cache directory, one for the process."""
    folder = cache_directory().absolute()
    with LOCK:
        if folder not in _caches:
            _caches[folder] = TuningCache(folder)
            atexit.register(_caches[folder].flush)
        return _caches[folder]


def canonical_key(module: Operation) -> str:
    """The name of a program; see `canonical_key.py`."""
    # Commands that only look at the cache do not load PyTorch.
    from .canonical_key import canonical_key

    return canonical_key(module)
