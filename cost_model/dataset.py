"""Files of measurements and of what compilers made, as gzipped lines of JSON; the one place that knows their schema.

A file is a sequence of sections: a header, which says where its records are from, and the records. Each write is a
gzip member of its own, so that what was written before stays whole whenever a program ends.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, cast

from ..ir.diagnostics import error
from .problem import Sizes
from .schedule import Schedule

SCHEMA = 1
CPU_TIMES, GPU_TIMES, COMPILES = "cpu_times", "gpu_times", "compiles"
KINDS = (CPU_TIMES, GPU_TIMES, COMPILES)
DIGITS = 4
"""Significant digits of what was measured."""

DATA = Path(__file__).parent / "data"
"""The files that come with attir."""


@dataclass(frozen=True)
class Header:
    """Where records are from: the machine, the versions of what made them, the date, the command."""

    kind: str
    machine: str
    versions: Mapping[str, str]
    date: str
    command: str


@dataclass(frozen=True)
class CaseFields:
    """What an attention program is: element type, head dimensions, query heads for each key head, form."""

    dtype: str
    width: int
    value_width: int
    group: int
    form: str


@dataclass(frozen=True)
class TimeRecord:
    """The time of one kernel at one size.

    `rows` is what the kernel was made for, 0 for any number. `seconds` are of one call on `threads` threads;
    `reference` those of the kernel that was measured beside it, `ratio` the quotient, `spread` the standard deviation
    of its logarithm in one of `rounds`. `machine` are the seconds of a kernel that is the same in all records, which
    was measured in the same rounds: how fast the machine was just then; 0 where there was none.
    """

    family: str
    case: CaseFields
    sizes: Sizes
    rows: int
    schedule: Schedule
    seconds: float
    reference: float
    ratio: float
    spread: float
    rounds: int
    machine: float = 0.0
    threads: int = 1


@dataclass(frozen=True)
class CompileRecord:
    """What a compiler made of one kernel for `target`: registers a thread, loads and stores of spilled ones in all and
    in loops, shared memory, instructions of each loop, those of the main loop by kind; why it `failed`, "" where it
    did not. `shape` are the fields of the `AttentionShape`, `predicted` is the shared memory that was, `stack` bytes
    of a thread, `length` instructions in all, and `ir` a digest of the kernel in tile IR.
    """

    family: str
    case: CaseFields
    target: str
    triton: str
    rows: int
    schedule: Schedule
    registers: int
    spills: int
    loop_spills: int
    shared: int
    loops: tuple[int, ...]
    instructions: Mapping[str, int]
    compile_seconds: float
    failed: str = ""
    predicted: int = 0
    stack: int = 0
    length: int = 0
    ir: str = ""
    shape: Mapping[str, Any] = field(default_factory=dict[str, Any])


Record = TimeRecord | CompileRecord
R = TypeVar("R", TimeRecord, CompileRecord)
_TYPES: Mapping[str, type[TimeRecord | CompileRecord]] = {
    CPU_TIMES: TimeRecord, GPU_TIMES: TimeRecord, COMPILES: CompileRecord,
}  # fmt: skip


@dataclass(frozen=True)
class Section:
    """Records, and where they are from."""

    header: Header
    records: list[Record] = field(default_factory=list[Record])


def read_sections(path: Path) -> list[Section]:
    """Everything in a file; CompileError that names the line where it is not as it should be."""
    sections: list[Section] = []
    for number, line in _lines(path):
        where = f"{path.name}:{number}"
        value = _object(line, where)
        if "schema" in value:
            sections.append(Section(_header(value, where)))
        elif not sections:
            raise error(f"{where}: a record stands before any header")
        else:
            sections[-1].records.append(record_of(value, sections[-1].header.kind, where))
    return sections


def read_times(*paths: Path, kind: str = CPU_TIMES) -> list[TimeRecord]:
    """All times of a kind in some files."""
    return _read(paths, kind, TimeRecord)


def read_compiles(*paths: Path) -> list[CompileRecord]:
    """All that compilers made, in some files."""
    return _read(paths, COMPILES, CompileRecord)


def _read(paths: Sequence[Path], kind: str, type_: type[R]) -> list[R]:
    sections = [section for path in paths for section in read_sections(path) if section.header.kind == kind]
    return [record for section in sections for record in section.records if isinstance(record, type_)]


class Writer:
    """Appends records of one section to a file.

    A file that ends in the middle of a write is cut back to what was whole before. A header is written where the
    last one of the file is another.
    """

    def __init__(self, path: Path, header: Header) -> None:
        self._path, self._header = path, header
        recover(path)
        sections = read_sections(path) if path.exists() else []
        self.records: list[Record] = [record for section in sections for record in section.records]
        self._pending = not sections or sections[-1].header != header

    def write(self, records: Sequence[Record]) -> None:
        """Keep `records`; when this returns they are on disk."""
        values = [header_value(self._header)] if self._pending else []
        values += [record_value(record) for record in records]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab", buffering=0) as file:
            file.write(_member(values))
            os.fsync(file.fileno())
        self._pending = False
        self.records += records


def recover(path: Path) -> int:
    """Cut off a last write that is not whole, if there is one; the bytes that were cut off.

    What is damaged otherwise stays as it is: reading says so.
    """
    if not path.exists():
        return 0
    data, whole = path.read_bytes(), 0
    while whole < len(data):
        member = zlib.decompressobj(wbits=31)
        try:
            member.decompress(data[whole:])
        except zlib.error:
            return 0
        if not member.eof:
            break
        whole = len(data) - len(member.unused_data)
    # Where nothing is whole, it may be more than a write that was lost.
    if not 0 < whole < len(data):
        return 0
    os.truncate(path, whole)
    return len(data) - whole


def pack(path: Path) -> None:
    """Write a file anew as one gzip member, which is far smaller than many; sections of equal headers are joined."""
    rewrite(path, read_sections(path))


def rewrite(path: Path, sections: Sequence[Section]) -> None:
    """Put `sections` in the place of all that a file holds; who reads it meanwhile sees what it held before."""
    joined: dict[str, list[Mapping[str, Any]]] = {}
    for section in sections:
        header = header_value(section.header)
        joined.setdefault(json.dumps(header), [header]).extend(map(record_value, section.records))
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(_member([value for values in joined.values() for value in values]))
    temporary.replace(path)


def _member(values: Sequence[Mapping[str, Any]]) -> bytes:
    """The same bytes for the same values: no time, no name."""
    text = "".join(json.dumps(value, separators=(",", ":")) + "\n" for value in values)
    return gzip.compress(text.encode(), 9, mtime=0)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            yield from enumerate(file, 1)
    except EOFError:
        raise error(f"{path.name} ends in the middle of a write: it was truncated") from None
    except (gzip.BadGzipFile, zlib.error, UnicodeDecodeError) as problem:
        raise error(f"{path.name} is damaged: {problem}") from problem
    except OSError as problem:
        raise error(f"cannot read {path}: {problem.strerror}") from problem


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        value: Any = json.loads(line)
    except ValueError as problem:
        raise error(f"{where}: no JSON: {problem}") from problem
    if not isinstance(value, dict):
        raise error(f"{where}: expected an object, but this is {type(value).__name__}")
    return cast("dict[str, Any]", value)


# --- headers and records as values


def header_value(header: Header) -> dict[str, Any]:
    return {"schema": SCHEMA, **asdict(header)}


def _header(value: Mapping[str, Any], where: str) -> Header:
    if value["schema"] != SCHEMA:
        raise error(f"{where}: schema {value['schema']}, but this version of attir reads {SCHEMA}")
    if value.get("kind") not in KINDS:
        raise error(f"{where}: kind {value.get('kind')!r}; expected {', '.join(KINDS)}")
    return Header(**_checked(Header, {k: v for k, v in value.items() if k != "schema"}, where))


def record_value(record: Record) -> dict[str, Any]:
    """A record as JSON has it: sizes as text, of the schedule what is no default, numbers rounded."""
    found = {name: _plain(getattr(record, name)) for name in _names(type(record))}
    optional = {f.name: f.default for f in fields(record) if f.default is not MISSING}
    return {name: value for name, value in found.items() if name not in optional or value != optional[name]}


def record_of(value: Mapping[str, Any], kind: str, where: str = "record") -> Record:
    """A record from JSON; CompileError where a field is missing, unknown or of another type."""
    type_, read = _TYPES[kind], dict(value)
    try:
        read |= {"case": case_of(read.get("case"), where), "schedule": schedule_of(read.get("schedule"), where)}
        if "sizes" in _names(type_):
            read["sizes"] = Sizes.parse(str(read.get("sizes")))
    except ValueError as problem:
        raise error(f"{where}: {problem}") from problem
    if isinstance(read.get("loops"), list):
        read["loops"] = tuple(read["loops"])
    found = type_(**_checked(type_, read, where))
    if isinstance(found, TimeRecord) and not all(0 < x < math.inf for x in (found.seconds, found.ratio)):
        raise error(f"{where}: seconds and ratio must be positive, but are {found.seconds} and {found.ratio}")
    return found


def schedule_value(schedule: Schedule) -> dict[str, int | str]:
    """The fields that are no defaults, and no reason."""
    found = {f.name: (getattr(schedule, f.name), f.default) for f in fields(schedule) if f.name != "reason"}
    return {name: value for name, (value, default) in found.items() if value != default}


def schedule_of(value: Any, where: str = "schedule") -> Schedule:
    """A schedule from its fields."""
    return Schedule(**_checked(Schedule, value, f"{where}: schedule"))


def case_of(value: Any, where: str = "case") -> CaseFields:
    """A case from its fields."""
    return CaseFields(**_checked(CaseFields, value, f"{where}: case"))


def rounded(value: float) -> float:
    """As many digits as are kept."""
    return float(f"{value:.{DIGITS}g}")


def _plain(value: Any) -> Any:
    match value:
        case Schedule():
            return schedule_value(value)
        case Sizes():
            return str(value)
        case CaseFields():
            return asdict(value)
        case float():
            return rounded(value)
        case tuple():
            return list(cast("tuple[Any, ...]", value))
        case Mapping():
            return dict(cast("Mapping[str, Any]", value))
        case _:
            return value


def _names(type_: type[Any]) -> list[str]:
    return [f.name for f in fields(type_)]


_KINDS: Mapping[str, type[Any] | tuple[type[Any], ...]] = {
    "int": int, "float": (int, float), "str": str, "Mapping": Mapping, "tuple": tuple,
}  # fmt: skip


def _checked(type_: type[Any], value: Any, where: str) -> dict[str, Any]:
    """`value` as arguments of a dataclass, if it has the fields and their types."""
    if not isinstance(value, dict):
        raise error(f"{where}: expected an object with fields, but this is {value!r}")
    given = cast("dict[str, Any]", value)
    known = {f.name: f for f in fields(type_)}
    needed = [n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING]
    if missing := [name for name in needed if name not in given]:
        raise error(f"{where}: lacks {', '.join(missing)}")
    if unknown := [name for name in given if name not in known]:
        raise error(f"{where}: has unknown fields {', '.join(unknown)}")
    for name, found in given.items():
        declared = str(known[name].type).partition("[")[0]
        wanted = _KINDS.get(declared)
        if wanted is not None and (not isinstance(found, wanted) or isinstance(found, bool)):
            raise error(f"{where}: '{name}' must be {declared}, but is {found!r}")
    return given
