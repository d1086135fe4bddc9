"""Looks through the whole cache folder: what is in it, what is wrong with it, what can go. Imports no PyTorch."""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..ir.diagnostics import error
from .native_cache import UnusableObject, object_key, object_path, unpack_object
from .private_files import distrust
from .tuning_database import FILE, Database
from .tuning_entries import OBJECT, Damaged, Entry, every, good, remove

_DAY = 86400.0
_GONE = float("-inf")  # when what is listed was made if the file is not there


@dataclass(frozen=True)
class Item:
    """Something that can go: entries with the same fate, a file, or both; `made` in seconds since 1970."""

    size: int
    made: float
    version: str
    device: str
    entry: Entry | None = None
    file: Path | None = None


def entries_of(database: Database) -> list[Entry]:
    """All good entries; raises CompileError where the database cannot be used."""
    found = list(good(database.read(every, [])))
    refuse_memory(database)
    return found


def refuse_memory(database: Database) -> None:
    if database.problem:
        raise error(f"the tuning cache cannot be used: {database.problem}")


def object_files(folder: Path) -> list[Path]:
    """The files with compiled code."""
    return sorted((folder / "objects").glob("*.object"))


def set_aside(folder: Path) -> list[Path]:
    """What is left of databases that were damaged."""
    return sorted(folder.glob(f"{FILE}.broken-*"))


def size_of(files: Sequence[Path]) -> int:
    """Bytes of files, those that have just gone not counted."""
    return sum(_status(path)[0] for path in files)


def _status(path: Path) -> tuple[int, float]:
    """Size and time of the last change; zeros where there is no such file."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0.0
    return found.st_size, found.st_mtime


def wrong(database: Database) -> list[str]:
    """Everything that is wrong with the database, its entries and the objects; nothing is changed."""
    found: list[str] = []
    rows = database.read(every, [])
    refuse_memory(database)
    checks = database.read(lambda connection: connection.execute("PRAGMA integrity_check").fetchall(), [])
    found += [f"{database.path}: {text}" for (text,) in checks if text != "ok"]
    found += database.notes
    for row in rows:
        if isinstance(row, Damaged):
            found.append(f"entry {' | '.join(map(str, row.identity))} {row.reason}")
    files = object_files(database.folder)
    found += [f"{path}: {reason}" for path in files if (reason := _wrong_object(path))]
    there = {path.name for path in files}
    listed = sorted(e.name for e in good(rows) if e.kind == OBJECT)
    return found + [f"objects/{name} is listed, but there is no such file" for name in listed if name not in there]


def _wrong_object(path: Path) -> str:
    if reason := distrust(path.parent, path):
        return reason
    try:
        data = path.read_bytes()
        unpack_object(data)
    except OSError as problem:
        return f"cannot be read ({problem.strerror})"
    except UnusableObject as problem:
        return f"the object {problem}"
    return "" if object_path(object_key(data), path.parent) == path else "the object is another one's, renamed"


@dataclass(frozen=True)
class Criteria:
    """What is to go: what fits all that is given, and then the oldest until the rest fits into `max_bytes`."""

    older: float | None = None
    version: str | None = None
    device: str | None = None
    max_bytes: int | None = None

    def fits(self, item: Item, now: float) -> bool:
        given = (self.older, self.version, self.device)
        return (
            any(criterion is not None for criterion in given)
            and (self.older is None or now - item.made > self.older * _DAY)
            and (self.version is None or item.version == self.version)
            and (self.device is None or self.device in item.device)
        )


def items_of(database: Database) -> list[Item]:
    """Everything that can go."""
    entries = entries_of(database)
    listed = {e.name: e for e in entries if e.kind == OBJECT}
    items = [
        Item(sum(len(str(value)) for value in e.row), e.made, e.key.version, e.key.device, e)
        for e in entries
        if e.kind != OBJECT
    ]
    for path in object_files(database.folder):
        e = listed.pop(path.name, None)
        version, device = (e.key.version, e.key.device) if e else ("", "")
        items.append(Item(*_status(path), version, device, e, path))
    # Of an object that is gone, the entry is of no use.
    return items + [Item(0, _GONE, e.key.version, e.key.device, e) for e in listed.values()]


def prune(database: Database, criteria: Criteria) -> list[Item]:
    """Delete what `criteria` say, and entries of objects that are gone; return it."""
    now, going, staying = time.time(), list[Item](), list[Item]()
    for item in items_of(database):
        (going if criteria.fits(item, now) or item.made == _GONE else staying).append(item)
    if criteria.max_bytes is not None:
        total = sum(item.size for item in staying)
        for item in sorted(staying, key=lambda item: item.made):
            if total <= criteria.max_bytes:
                break
            going.append(item)
            total -= item.size
    _delete(database, going)
    return going


def clear(database: Database) -> list[Item]:
    """Delete everything, also what was set aside and the counts of hits; return what can be counted."""
    items = items_of(database)
    _delete(database, items)
    database.write(_delete_all, None)
    refuse_memory(database)
    for path in set_aside(database.folder):
        path.unlink(missing_ok=True)
    return items


def _delete_all(connection: sqlite3.Connection) -> None:
    for table in ("entries", "counters"):
        connection.execute(f"DELETE FROM {table}")


def _delete(database: Database, items: Sequence[Item]) -> None:
    identities = [item.entry.identity for item in items if item.entry is not None]
    database.write(lambda connection: remove(connection, identities), 0)
    refuse_memory(database)
    for item in items:
        if item.file is not None:
            try:
                item.file.unlink(missing_ok=True)
            except OSError as problem:
                raise error(f"cannot delete {item.file}: {problem.strerror}") from problem
    if identities:
        database.shrink()


def counted(entries: Sequence[Entry]) -> dict[str, int]:
    """How many entries there are of each kind."""
    return dict(sorted(Counter(e.kind for e in entries).items()))
