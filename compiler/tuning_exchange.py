"""Takes entries of the tuning cache out into one file, and in from such a file or from another cache.

A file is lines of JSON: what it is, one line for each entry, and a digest of all before it. Only data travels: no
compiled code, and nothing that is executed.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from ..ir.diagnostics import CompileError, error
from .dump import write_whole
from .tuning_database import APPLICATION, FILE, SCHEMA, TABLES, Database, schema_of
from .tuning_entries import KINDS, OBJECT, Damaged, Entry, every, put, read_entry
from .version import VERSION

FORMAT = "attir tuning cache"
_SQLITE = b"SQLite format 3\0"


def export_entries(entries: Sequence[Entry], path: Path) -> None:
    """Write entries to a file, wholly or not at all."""
    head = {"format": FORMAT, "schema": SCHEMA, "version": VERSION, "entries": len(entries)}
    lines = [json.dumps(head), *(json.dumps(e.row) for e in sorted(entries, key=lambda e: e.identity))]
    body = "".join(f"{line}\n" for line in lines)
    write_whole(path, body + json.dumps({"sha256": _digest(body)}) + "\n")


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()


@dataclass(frozen=True)
class Contents:
    """What a file holds: entries, and why others are not among them."""

    entries: Sequence[Entry]
    dropped: Sequence[str] = ()


def read_entries(path: Path) -> Contents:
    """The entries in an exported file, in another cache's database, or in its folder; raises CompileError."""
    path = path / FILE if path.is_dir() else path
    try:
        with path.open("rb") as file:
            start = file.read(len(_SQLITE))
            data = b"" if start == _SQLITE else start + file.read()
    except OSError as problem:
        raise error(f"cannot read {path}: {problem.strerror}") from problem
    return _read_database(path) if start == _SQLITE else _read_lines(path, data)


def _read_lines(path: Path, data: bytes) -> Contents:
    try:
        text = data.decode()
        body, last = text[: text.rstrip("\n").rfind("\n") + 1], text.rstrip("\n").rpartition("\n")[2]
        head = _object(body.partition("\n")[0])
        if head.get("format") != FORMAT:
            raise error(f"{path} is no exported tuning cache")
        if head.get("schema") != SCHEMA:
            raise error(f"{path} was exported by attir {head.get('version')} with schema {head.get('schema')}; "
                        f"this one reads {SCHEMA}")  # fmt: skip
        if _object(last).get("sha256") != _digest(body):
            raise error(f"{path} is damaged: it does not fit its checksum; nothing was taken from it")
        rows = [cast("list[Any]", json.loads(line)) for line in body.splitlines()[1:]]
    except CompileError:
        raise
    except (ValueError, RecursionError) as problem:
        raise error(f"{path} is no exported tuning cache, or was cut off; nothing was taken from it") from problem
    return _contents(read_entry(tuple(row)) for row in rows)


def _object(line: str) -> dict[str, Any]:
    value: object = json.loads(line)
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _read_database(path: Path) -> Contents:
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            connection.execute("PRAGMA trusted_schema = OFF")
            if schema_of(connection) != (APPLICATION, SCHEMA, TABLES):
                raise error(f"{path} is not a tuning cache of this attir's (schema {SCHEMA})")
            found = every(connection)
    except sqlite3.Error as problem:
        raise error(f"cannot read {path}: {problem}; nothing was taken from it") from problem
    return _contents(e.reason if isinstance(e, Damaged) else e for e in found)


def _contents(found: Iterable[Entry | str]) -> Contents:
    entries, dropped = list[Entry](), list[str]()
    for one in found:
        if isinstance(one, str):
            dropped.append(f"an entry {one}")
        elif one.kind not in KINDS:
            dropped.append(f"an entry is of the unknown kind '{one.kind}'")
        elif one.kind != OBJECT:  # code comes from this machine's compiler alone
            entries.append(one)
    return Contents(entries, dropped)


@dataclass(frozen=True)
class Taken:
    """What came of taking entries in: how many were "new", "better" or "worse", and entries by foreign device."""

    outcomes: Mapping[str, int]
    elsewhere: Mapping[str, int] = field(default_factory=dict[str, int])

    def __str__(self) -> str:
        new, better, worse = (self.outcomes.get(name, 0) for name in ("new", "better", "worse"))
        lines = [f"{new} new, {better} better supported than those there were, {worse} not better and left out"]
        lines += [f"{count} are of another device and of no use here: {name}" for name, count in self.elsewhere.items()]
        return "\n".join(lines)


def take_in(database: Database, entries: Sequence[Entry], devices: frozenset[str]) -> Taken:
    """Keep all entries that are better supported than those there are; `devices` are those of this machine."""

    def work(connection: sqlite3.Connection) -> Counter[str]:
        return Counter(put(connection, one, replace_equal=False) for one in entries)

    outcomes = database.write(work, Counter[str]())
    if database.problem:
        raise error(f"nothing was taken in: {database.problem}")
    return Taken(outcomes, dict(Counter(e.key.device for e in entries if e.key.device not in devices)))
