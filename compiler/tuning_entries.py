"""One kept plan, measurement, calibration or object as a row: what it holds for, its value, and a checksum."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, cast

from .tuning_database import COLUMNS
from .tuning_keys import Key

PLAN, MEASUREMENT, CALIBRATION, OBJECT = "plan", "measurement", "calibration", "object"
KINDS = (PLAN, MEASUREMENT, CALIBRATION, OBJECT)

_NAMED_BY = "kind = ? AND ir = ? AND bucket = ? AND mask = ? AND device = ? AND toolchain = ? AND version = ?"
_PLACES = ", ".join("?" * len(COLUMNS))


@dataclass(frozen=True)
class Entry:
    """What is kept for `key` under `name` ("" for plans; a schedule for measurements).

    `value` is the JSON text of an object. `support` counts the measurements behind it and `spread` is theirs,
    relative; `seconds` is a time it tells of, if it does. `made` is when, in seconds since 1970, for display only.
    """

    kind: str
    key: Key
    name: str
    value: str
    support: int = 0
    spread: float = 0.0
    seconds: float | None = None
    made: float = 0.0

    @property
    def checksum(self) -> str:
        text = json.dumps([self.kind, *astuple(self.key), self.name, self.value, *self._numbers])
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    @property
    def row(self) -> tuple[Any, ...]:
        """As the columns of the database have it."""
        return self.kind, *astuple(self.key), self.name, self.value, *self._numbers, self.checksum

    @property
    def _numbers(self) -> tuple[int | float | None, ...]:
        return self.support, self.spread, self.seconds, self.made

    @property
    def mapping(self) -> dict[str, Any]:
        """The value."""
        return cast("dict[str, Any]", json.loads(self.value))

    @property
    def identity(self) -> tuple[str, ...]:
        """What two entries have in common that cannot both be kept."""
        return self.kind, *astuple(self.key), self.name

    def supported_better(self, other: Entry) -> bool:
        """Whether this one is to be kept and not `other`: more measurements, then a lower spread.

        Between equals the text decides, so that merging gives the same in any order.
        """
        return (self.support, -self.spread, self.made, self.value) > (
            other.support, -other.spread, other.made, other.value
        )  # fmt: skip


def entry(kind: str, key: Key, name: str, value: Mapping[str, Any], **numbers: Any) -> Entry:
    """An entry made now. Raises TypeError for what is no JSON."""
    text = json.dumps(dict(value), sort_keys=True, separators=(",", ":"))
    return Entry(kind, key, name, text, made=time.time(), **numbers)


def number(value: object, usual: float = 0.0) -> float:
    """`value` if it is a number, else `usual`."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else usual


def read_entry(row: Sequence[Any]) -> Entry | str:
    """The entry of a row, or why it is none."""
    texts, numbers = row[:9], row[9:13]
    types = ((int,), (int, float), (int, float, type(None)), (int, float))
    if len(row) != len(COLUMNS) or not all(isinstance(t, str) for t in texts):
        return "is not as attir writes them"
    if not all(isinstance(n, t) for n, t in zip(numbers, types, strict=True)):
        return "has something else in the place of a number"
    found = Entry(texts[0], Key(*texts[1:7]), texts[7], texts[8], *numbers)
    if found.checksum != row[13]:
        return "does not fit its checksum"
    try:
        value: object = json.loads(found.value)
    except (ValueError, RecursionError):
        return "is no JSON"
    return found if isinstance(value, dict) else "is not an object in JSON"


def every(connection: sqlite3.Connection, condition: str = "1", values: Sequence[object] = ()) -> list[Entry | Damaged]:
    """Entries, and rows that are none."""
    rows = connection.execute(f"SELECT * FROM entries WHERE {condition}", values).fetchall()
    return [found if isinstance(found := read_entry(row), Entry) else Damaged(found, tuple(row[:8])) for row in rows]


@dataclass(frozen=True)
class Damaged:
    """A row that cannot be trusted: why, and the columns that find it."""

    reason: str
    identity: tuple[Any, ...]


def good(found: Iterable[Entry | Damaged]) -> Iterator[Entry]:
    return (e for e in found if isinstance(e, Entry))


def of_key(connection: sqlite3.Connection, kind: str, key: Key) -> list[Entry | Damaged]:
    """What is kept for exactly this key."""
    return every(connection, _NAMED_BY, (kind, *astuple(key)))


def of_program(connection: sqlite3.Connection, kind: str, ir: str) -> list[Entry | Damaged]:
    """What is kept for a program, whatever the device, sizes and versions."""
    return every(connection, "kind = ? AND ir = ?", (kind, ir))


def put(connection: sqlite3.Connection, entry: Entry, *, replace_equal: bool) -> str:
    """Keep an entry unless a better supported one is there: "new", "better", or "worse" where it is not kept.

    With `replace_equal` it is enough that its support is as high: what a process finds out itself is newer.
    """
    (there,) = every(connection, f"{_NAMED_BY} AND name = ?", entry.identity) or (None,)
    if isinstance(there, Entry):
        as_good = replace_equal and entry.support >= there.support
        if not (as_good or entry.supported_better(there)):
            return "worse"
    connection.execute(f"INSERT OR REPLACE INTO entries VALUES ({_PLACES})", entry.row)
    return "better" if isinstance(there, Entry) else "new"


def remove(connection: sqlite3.Connection, identities: Iterable[Sequence[Any]]) -> int:
    """Delete rows by the columns that find them; returns how many there were."""
    before = connection.total_changes
    connection.executemany(f"DELETE FROM entries WHERE {_NAMED_BY} AND name = ?", identities)
    return connection.total_changes - before
