"""Compares what was reported with the comments in IR text that say what should be.

    // expected-error@+1 {{head dimensions differ}}

The offset counts lines from the comment; without one it means the comment's own line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..ir.diagnostics import Diagnostic
from ..ir.location import Location

_EXPECTED = re.compile(r"expected-(error|warning|remark|note)(?:@([+-]\d+|above|below|unknown))?\s*\{\{(.*?)\}\}")
_OFFSETS = {"above": -1, "below": 1}


@dataclass(frozen=True)
class Said:
    """One message, without its notes, as it was reported or is expected (then a part of it)."""

    kind: str
    line: int
    text: str


def compare(diagnostics: Sequence[Diagnostic], text: str, filename: str) -> list[Diagnostic]:
    """What was reported against the comments in `text`, and what they ask for in vain."""
    missing = list(_expected(text))
    unexpected: list[Said] = []
    for said in _reported(diagnostics, filename):
        match = next((e for e in missing if (e.kind, e.line) == (said.kind, said.line) and e.text in said.text), None)
        if match is not None:
            missing.remove(match)
        elif said.kind != "note":  # notes may go unmentioned
            unexpected.append(said)
    return [
        *(_diagnostic(s, filename, f"unexpected {s.kind}: {s.text}") for s in unexpected),
        *(_diagnostic(s, filename, f"expected {s.kind} was not reported: {s.text}") for s in missing),
    ]


def _diagnostic(said: Said, filename: str, message: str) -> Diagnostic:
    return Diagnostic(Location(filename, said.line), message)


def _expected(text: str) -> Iterator[Said]:
    for number, line in enumerate(text.split("\n"), start=1):
        for kind, offset, words in _EXPECTED.findall(line):
            at = 0 if offset == "unknown" else number + (_OFFSETS[offset] if offset in _OFFSETS else int(offset or 0))
            yield Said(kind, at, words)


def _reported(diagnostics: Sequence[Diagnostic], filename: str) -> Iterator[Said]:
    for diagnostic in diagnostics:
        yield Said(diagnostic.severity, _line(diagnostic.location, filename), diagnostic.message)
        for where, words in diagnostic.notes:
            yield Said("note", _line(where, filename), words)


def _line(location: Location, filename: str) -> int:
    """The line in this file, or 0 for a place elsewhere."""
    return location.line if location.file == filename else 0
