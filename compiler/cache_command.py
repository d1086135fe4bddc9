"""`attir cache`: what was planned, measured and compiled before, and how to carry it elsewhere or be rid of it."""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from ..cost_model.devices import DEVICES, TARGETS
from ..ir.diagnostics import error
from .kernel_cache import cache_directory
from .tuning_cache import age_in_words
from .tuning_database import Database
from .tuning_entries import CALIBRATION, MEASUREMENT, OBJECT, Entry
from .tuning_exchange import Contents, export_entries, read_entries, take_in
from .tuning_keys import device_fingerprint
from .tuning_upkeep import (
    Criteria,
    clear,
    counted,
    entries_of,
    object_files,
    prune,
    set_aside,
    size_of,
    wrong,
)

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}

Action = Callable[[Database, argparse.Namespace], int]


def run(argv: Sequence[str]) -> int:
    """`attir cache` of the command line; 1 if something is wrong, else 0."""
    arguments = _parser().parse_args(argv)
    database = Database(cache_directory().absolute())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is wrong with the cache is said below
        try:
            return _ACTIONS[arguments.command](database, arguments)
        finally:
            for note in database.notes:
                print(f"attir cache: {note}", file=sys.stderr)
            database.close()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="attir cache", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str, *, as_json: bool = False) -> Callable[..., argparse.Action]:
        added = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        if as_json:
            added.add_argument("--json", action="store_true", help="print JSON")
        return added.add_argument

    listed = command("ls", "list what is kept, a line for each program, size and device", as_json=True)
    listed("--device", metavar="TEXT", help="only devices with this in their name")
    command("show", "print all that is kept under a key", as_json=True)(
        "key", metavar="KEY", help="the start of a program's key as `ls` prints it, or of a name"
    )
    command("stats", "count entries, bytes, hits and misses", as_json=True)
    export = command("export", "write plans, measurements and calibrations of this device to one file")
    export("file", metavar="FILE")
    export("--all", action="store_true", help="of all devices")
    command("import", "take in what another machine exported")("file", metavar="FILE")
    command("merge", "take in other caches")(
        "file", metavar="FILE", nargs="+", help="an exported file, a cache's folder, or the database in it"
    )
    command("verify", "check every entry and every object", as_json=True)
    pruned = command("prune", "delete what fits all of what is given")
    pruned("--older", type=_days, metavar="DAYS", help="what was made more than so many days ago")
    pruned("--version", metavar="VERSION", help="what this version of attir made")
    pruned("--device", metavar="TEXT", help="what is for devices with this in their name")
    pruned("--max-bytes", type=_bytes, metavar="N", help="then the oldest, until the rest has N bytes (or 500k, 2G)")
    command("clear", "delete everything")("--yes", action="store_true", help="do not ask")
    return parser


def _days(text: str) -> float:
    try:
        if (days := float(text)) >= 0:
            return days
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"expected a number of days from 0 on, but it is '{text}'")


def _bytes(text: str) -> int:
    digits, unit = (text[:-1], text[-1].lower()) if text[-1:].isalpha() else (text, "")
    if not digits.isdecimal() or unit not in _UNITS:
        raise argparse.ArgumentTypeError(
            f"expected a number of bytes such as 500000, 500k, 20M or 2G, but it is '{text}'"
        )
    return int(digits) * _UNITS[unit]


def _ls(database: Database, arguments: argparse.Namespace) -> int:
    wanted = arguments.device or ""
    groups = _grouped(e for e in entries_of(database) if wanted in e.key.device and e.kind != OBJECT)
    rows = [_row(group) for group in groups]
    if arguments.json:
        print(json.dumps(rows, indent=1))
    elif not rows:
        print(f"nothing is kept in {database.folder}" + (f" for devices with '{wanted}' in their name" * bool(wanted)))
    else:
        _print_table(rows)
    return 0


def _grouped(entries: Any) -> list[list[Entry]]:
    """Entries by what a line is about: measurements of one key are one."""
    groups: dict[tuple[str, ...], list[Entry]] = {}
    for e in sorted(entries, key=lambda e: (e.key.device, e.key.ir, e.key.bucket, e.kind, e.identity)):
        name = () if e.kind == MEASUREMENT else (e.name,)
        groups.setdefault((e.kind, *asdict(e.key).values(), *name), []).append(e)
    return list(groups.values())


def _row(group: Sequence[Entry]) -> dict[str, Any]:
    first = group[0]
    seconds = [e.seconds for e in group if e.seconds is not None]
    source = first.mapping.get("source", "") if first.kind != MEASUREMENT else f"{len(group)} schedules"
    return {
        "kind": first.kind, **asdict(first.key), "name": first.name if first.kind == CALIBRATION else "",
        "source": str(source), "support": sum(e.support for e in group), "seconds": min(seconds, default=None),
        "made": max(e.made for e in group),
    }  # fmt: skip


_COLUMNS = ("kind", "program", "bucket", "mask", "source", "rounds", "time", "age", "attir")


def _print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """A table for each device and toolchain."""
    tables: dict[tuple[str, str], list[tuple[str, ...]]] = {}
    for row in rows:
        time_ = "" if row["seconds"] is None else f"{1e3 * row['seconds']:.4g} ms"
        cells = (
            row["kind"], row["ir"] or row["name"], row["bucket"], row["mask"], row["source"],
            str(row["support"] or ""), time_, age_in_words(row["made"]), row["version"],
        )  # fmt: skip
        tables.setdefault((row["device"], row["toolchain"]), []).append(cells)
    for (device, tools), lines in tables.items():
        print(", ".join(filter(None, (device, tools))))
        widths = [max(map(len, column)) for column in zip(_COLUMNS, *lines, strict=True)]
        for line in (_COLUMNS, *lines):
            print("  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _show(database: Database, arguments: argparse.Namespace) -> int:
    found = [e for e in entries_of(database) if any(t.startswith(arguments.key) for t in (e.key.ir, e.name) if t)]
    if not found:
        raise error(f"nothing is kept under '{arguments.key}'; `attir cache ls` lists the keys")
    shown = [_whole(e) for e in sorted(found, key=lambda e: e.identity)]
    if arguments.json:
        print(json.dumps(shown, indent=1))
        return 0
    for one in shown:
        value = one.pop("value")
        lines = [f"{name:<10} {text}" for name, text in one.items() if text not in ("", None)]
        print("\n".join([*lines, *(f"  {name}: {json.dumps(part)}" for name, part in value.items()), ""]))
    return 0


def _whole(e: Entry) -> dict[str, Any]:
    made = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(max(0.0, min(e.made, 2**40))))
    numbers = {"support": e.support, "spread": e.spread, "seconds": e.seconds, "made": made}
    return {"kind": e.kind, **asdict(e.key), "name": e.name, **numbers, "value": e.mapping}


def _stats(database: Database, arguments: argparse.Namespace) -> int:
    entries, folder = entries_of(database), database.folder
    objects, aside = object_files(folder), set_aside(folder)
    counters = database.read(
        lambda connection: dict(connection.execute("SELECT name, count FROM counters ORDER BY name").fetchall()), {}
    )
    parts = sorted(folder.glob(f"{database.path.name}*"))
    found: dict[str, Any] = {
        "folder": str(folder),
        "entries": counted(entries),
        "devices": sorted({e.key.device for e in entries}),
        "versions": sorted({e.key.version for e in entries}),
        "database_bytes": size_of([p for p in parts if p not in aside]),
        "objects": len(objects),
        "object_bytes": size_of(objects),
        "set_aside": len(aside),
        "set_aside_bytes": size_of(aside),
        "lookups": counters,
    }
    if arguments.json:
        print(json.dumps(found, indent=1))
        return 0
    for name, value in found.items():
        print(f"{name.replace('_', ' '):<16} {_told(value)}")
    return 0


def _told(value: object) -> str:
    """A value of the statistics in words."""
    if isinstance(value, dict):
        pairs = cast("dict[str, int]", value).items()
        return ", ".join(f"{count} {name}" for name, count in pairs) or "none"
    return "; ".join(cast("list[str]", value)) or "none" if isinstance(value, list) else str(value)


def _here(entries: Sequence[Entry]) -> frozenset[str]:
    """The fingerprints of this machine, with "" for what is for any."""
    if any(e.key.device.partition(",")[0] in DEVICES for e in entries):
        import torch  # noqa: F401  # pyright: ignore[reportUnusedImport] - says which GPU this is
    return frozenset({"", *map(device_fingerprint, TARGETS)})


def _export(database: Database, arguments: argparse.Namespace) -> int:
    entries = [e for e in entries_of(database) if e.kind != OBJECT]
    here = _here(entries)
    chosen = [e for e in entries if arguments.all or e.key.device in here]
    if not chosen:
        others = ", ".join(sorted({e.key.device for e in entries}))
        raise error(
            f"there is nothing to export of this device; --all exports what there is of {others}"
            if others
            else f"there is nothing to export: nothing is kept in {database.folder}"
        )
    export_entries(chosen, Path(arguments.file))
    left = len(entries) - len(chosen)
    told = f"; {left} of other devices are not in it (--all)" if left else ""
    print(f"{len(chosen)} entries are in {arguments.file}{told}")
    return 0


def _take_in(database: Database, arguments: argparse.Namespace) -> int:
    files = [arguments.file] if isinstance(arguments.file, str) else arguments.file
    # All are read before any is taken in.
    contents: list[Contents] = [read_entries(Path(file)) for file in files]
    here = _here([e for one in contents for e in one.entries])
    for file, one in zip(files, contents, strict=True):
        print(f"{file}: {take_in(database, one.entries, here)}")
        for reason in one.dropped:
            print(f"attir cache: {file}: {reason}, and was left out", file=sys.stderr)
    return 0


def _verify(database: Database, arguments: argparse.Namespace) -> int:
    found = wrong(database)
    if arguments.json:
        print(json.dumps(found, indent=1))
    elif found:
        print("\n".join(found))
    else:
        objects = len(object_files(database.folder))
        print(
            f"{len(entries_of(database))} entries and {objects} objects in {database.folder} are as they were written"
        )
    return 1 if found else 0


def _prune(database: Database, arguments: argparse.Namespace) -> int:
    criteria = Criteria(arguments.older, arguments.version, arguments.device, arguments.max_bytes)
    if criteria == Criteria():
        raise error("nothing says what is to go: --older DAYS, --version VERSION, --device TEXT or --max-bytes N")
    gone = prune(database, criteria)
    files = sum(item.file is not None for item in gone)
    print(f"{len(gone)} entries went, {files} of them compiled objects, {sum(item.size for item in gone)} bytes")
    return 0


def _clear(database: Database, arguments: argparse.Namespace) -> int:
    if not arguments.yes:
        if not sys.stdin.isatty():
            raise error(f"to delete all that is kept in {database.folder}, add --yes")
        if input(f"delete all that is kept in {database.folder}? [y/N] ").strip().lower() not in ("y", "yes"):
            print("nothing was deleted")
            return 1
    print(f"{len(clear(database))} entries and objects were deleted from {database.folder}")
    return 0


_ACTIONS: Mapping[str, Action] = {
    "ls": _ls, "show": _show, "stats": _stats, "export": _export, "import": _take_in, "merge": _take_in,
    "verify": _verify, "prune": _prune, "clear": _clear,
}  # fmt: skip
