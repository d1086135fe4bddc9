"""Keeps entries of the tuning cache in SQLite, whatever happens to the file; knows nothing of what they mean.

Nothing here fails: where the file cannot be used, entries live in memory for as long as this process does, and
`problem` says why.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

from .native_compiler import BUILDING
from .private_files import distrust, make_private_file, make_private_folder, narrow
from .warn_once import warn_once

FILE = "tuning.sqlite3"
SCHEMA = 1
APPLICATION = 0x61747472  # "attr", where SQLite keeps whose file it is
WAIT = 10.0
"""Seconds to wait for other processes that write."""

TABLES = {
    "entries": """CREATE TABLE entries (
    kind TEXT NOT NULL, ir TEXT NOT NULL, bucket TEXT NOT NULL, mask TEXT NOT NULL,
    device TEXT NOT NULL, toolchain TEXT NOT NULL, version TEXT NOT NULL, name TEXT NOT NULL,
    value TEXT NOT NULL, support INTEGER NOT NULL, spread REAL NOT NULL, seconds REAL, made REAL NOT NULL,
    checksum TEXT NOT NULL,
    PRIMARY KEY (kind, ir, bucket, mask, device, toolchain, version, name)) WITHOUT ROWID""",
    "counters": "CREATE TABLE counters (name TEXT PRIMARY KEY, count INTEGER NOT NULL) WITHOUT ROWID",
}

COLUMNS = (
    "kind", "ir", "bucket", "mask", "device", "toolchain", "version", "name",
    "value", "support", "spread", "seconds", "made", "checksum",
)  # fmt: skip

_ATTEMPTS = 4
_CORRUPT, _NOT_A_DATABASE = 11, 26

T = TypeVar("T")

LOCK = threading.RLock()
"""Held around every use of SQLite in this process; whoever holds it does not ask for BUILDING."""

_inherited: list[object] = []
"""Connections of a parent process: a child may neither use nor close them."""


def _before_fork() -> None:
    # In the order in which code takes both, so that a fork cannot wait for itself.
    BUILDING.acquire()
    LOCK.acquire()


def _after_fork() -> None:
    LOCK.release()
    BUILDING.release()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)


class _Foreign(Exception):  # noqa: N818 - a reason, not a failure
    """Why a file is not a database of this attir's; a newer one must not be touched."""

    def __init__(self, reason: str, newer: bool = False) -> None:
        super().__init__(reason)
        self.newer = newer


class Database:
    """The entries in one folder; safe to use from several threads, processes and across forks.

    `problem` says why the file cannot be used or written, "" where it can. `notes` are what happened besides.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / FILE
        self.problem = ""
        self.notes: list[str] = []
        self._connection: sqlite3.Connection | None = None
        self._process = 0
        self._identity: tuple[int, int] | None = None

    def read(self, work: Callable[[sqlite3.Connection], T], default: T) -> T:
        """What `work` finds; `default` where that cannot be found out."""
        with LOCK:
            for _ in range(_ATTEMPTS):
                try:
                    return work(self._connected())
                except (sqlite3.Error, MemoryError) as problem:
                    self._recover(problem)
        return default

    def write(self, work: Callable[[sqlite3.Connection], T], default: T) -> T:
        """Do `work` wholly or not at all."""

        def transaction(connection: sqlite3.Connection) -> T:
            connection.execute("BEGIN IMMEDIATE")
            try:
                result = work(connection)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            return result

        return self.read(transaction, default)

    def close(self) -> None:
        """Let go of the file; the next use opens it again."""
        with LOCK:
            self._drop()

    def shrink(self) -> None:
        """Give the space of deleted entries back, unless others read meanwhile."""

        def work(connection: sqlite3.Connection) -> None:
            with contextlib.suppress(sqlite3.OperationalError):
                connection.execute("VACUUM")
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

        self.read(work, None)

    # --- opening

    def _connected(self) -> sqlite3.Connection:
        if self._connection is not None and self._process != os.getpid():
            _inherited.append(self._connection)
            self._connection = None
        if self._connection is not None and self._identity is not None and _identity(self.path) != self._identity:
            self._drop()  # somebody has put the file aside
        if self._connection is None:
            self._process = os.getpid()
            self._connection = self._in_memory(self.problem) if self.problem else self._open()
        return self._connection

    def _drop(self) -> None:
        if self._connection is not None and self._process == os.getpid():
            self._connection.close()
        self._connection, self._identity = None, None

    def _open(self) -> sqlite3.Connection:
        try:
            make_private_folder(self.folder)
            if reason := distrust(self.folder, self.path, *_beside(self.path)):
                return self._in_memory(f"{reason}; nothing there is used")
            make_private_file(self.path)
            for path in (self.path, *_beside(self.path)):
                narrow(path)
            return self._open_file()
        except OSError as problem:
            connection = self._in_memory(f"{self.path} cannot be written ({problem.strerror}); set ATTIR_CACHE_DIR")
            return _copied(None, self.path, connection)

    def _open_file(self, again: bool = True) -> sqlite3.Connection:
        connection = _connect(self.path)
        try:
            self._identity = _identity(self.path)
            _check_schema(connection)
        except _Foreign as problem:
            connection.close()
            if problem.newer or not again:
                return self._in_memory(f"{self.path} {problem}: it is not touched")
            self._put_aside(str(problem))
            return self._open_file(again=False)
        except BaseException:
            connection.close()
            raise
        return connection

    def _in_memory(self, reason: str) -> sqlite3.Connection:
        """A database for this process alone; `reason` says why."""
        if not self.problem:
            self.problem = reason
            warn_once(f"the tuning cache is kept in memory: {reason}")
        connection = _connect(":memory:")
        _check_schema(connection)
        self._identity, self._process = None, os.getpid()
        return connection

    # --- what goes wrong

    def _recover(self, problem: Exception) -> None:
        """Make the next attempt one that may succeed."""
        if self.problem:
            return
        code = getattr(problem, "sqlite_errorcode", 0) & 0xFF
        if code in (_CORRUPT, _NOT_A_DATABASE):
            self._drop()
            try:
                self._put_aside(f"is damaged ({problem})")
            except OSError as reason:
                self._connection = self._in_memory(f"{self.path} is damaged and cannot be moved ({reason.strerror})")
            return
        before = self._connection
        self._connection = self._in_memory(f"{self.path} cannot be used ({problem}); set ATTIR_CACHE_DIR")
        _copied(before, self.path, self._connection)

    def _put_aside(self, reason: str) -> None:
        """Rename the file and what belongs to it, unless another process has done so. Raises OSError."""
        with self._alone():
            if not _is_damaged(self.path):
                return
            number = 1
            while (aside := self.path.with_name(f"{FILE}.broken-{number}")).exists():
                number += 1
            # What belongs to the file goes first: on a new database it would be taken for its own.
            for ending in ("-wal", "-shm", ""):
                part = self.path.with_name(FILE + ending)
                if part.exists():
                    part.rename(aside.with_name(aside.name + ending))
            make_private_file(self.path)
        note = f"{self.path} {reason}: it was set aside as {aside.name}, and a new one begun"
        self.notes.append(note)
        warn_once(note)

    @contextmanager
    def _alone(self) -> Generator[None]:
        """No other process puts the file aside meanwhile."""
        path = self.folder / "tuning.lock"
        make_private_file(path)
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _connect(path: Path | str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=WAIT, isolation_level=None, check_same_thread=False)
    try:
        connection.text_factory = _text
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA cell_size_check = ON")
        _write_ahead(connection)
        # What is committed survives the process; a machine that loses power may lose the last commits, no more.
        connection.execute("PRAGMA synchronous = NORMAL")
    except BaseException:
        connection.close()
        raise
    return connection


def _copied(source: sqlite3.Connection | None, path: Path, into: sqlite3.Connection) -> sqlite3.Connection:
    """`into` with what can be read from `source`, which is closed, or of the file where it cannot be written."""
    try:
        with closing(source if source is not None else _read_only(path)) as connection:
            if schema_of(connection) == (APPLICATION, SCHEMA, TABLES):
                rows = connection.execute("SELECT * FROM entries").fetchall()
                into.executemany(f"INSERT OR IGNORE INTO entries VALUES ({', '.join('?' * len(COLUMNS))})", rows)
    except sqlite3.Error:
        pass
    return into


def _read_only(path: Path) -> sqlite3.Connection:
    """A file that nobody writes, as in a folder that cannot be written."""
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False)


def _text(data: bytes) -> str:
    return data.decode(errors="replace")


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Readers do not wait for writers. SQLite does not wait for others with this, so it is tried for a while."""
    deadline = time.monotonic() + WAIT
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
            return
        except sqlite3.OperationalError as problem:
            if "locked" not in str(problem) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _check_schema(connection: sqlite3.Connection) -> None:
    """Make the tables of an empty database; raise _Foreign for one that has others."""
    if schema_of(connection) == (APPLICATION, SCHEMA, TABLES):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        application, schema, tables = schema_of(connection)
        if (application, schema, tables) == (0, 0, {}):
            for text in TABLES.values():
                connection.execute(text)
            connection.execute(f"PRAGMA application_id = {APPLICATION}")
            connection.execute(f"PRAGMA user_version = {SCHEMA}")
        elif application == APPLICATION and schema > SCHEMA:
            raise _Foreign(f"was made by a newer attir (schema {schema}; this one knows {SCHEMA})", newer=True)
        elif (application, schema, tables) != (APPLICATION, SCHEMA, TABLES):
            raise _Foreign("is another program's database")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def schema_of(connection: sqlite3.Connection) -> tuple[int, int, dict[str, str]]:
    tables = dict(connection.execute("SELECT name, sql FROM sqlite_master").fetchall())
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (schema,) = connection.execute("PRAGMA user_version").fetchone()
    return application, schema, tables


def _is_damaged(path: Path) -> bool:
    """Whether the file, as it is now, is not a database of this attir's."""
    if not path.exists():
        return False
    try:
        with closing(_connect(path)) as connection:
            _check_schema(connection)
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            return found != "ok"
    except _Foreign as problem:
        return not problem.newer
    except sqlite3.OperationalError:
        return False
    except sqlite3.DatabaseError:
        return True


def _beside(path: Path) -> tuple[Path, ...]:
    """The files that SQLite keeps beside a database."""
    return tuple(path.with_name(path.name + ending) for ending in ("-wal", "-shm"))


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
