"""Errors that point at the line of IR or Python that caused them."""

from __future__ import annotations

import linecache
from dataclasses import dataclass, field
from typing import Literal, NoReturn

from .core import Operation
from .location import UNKNOWN, Location

Severity = Literal["error", "warning", "remark"]


@dataclass(frozen=True)
class Diagnostic:
    """One message at one place, with notes that point elsewhere."""

    location: Location
    message: str
    notes: tuple[tuple[Location, str], ...] = ()
    severity: Severity = "error"

    def render(self, source: str | None = None) -> str:
        """The message, the source line and a caret; `source` is the text when it is no file."""
        lines = [f"{_prefix(self.location)}{self.severity}: {self.message}"]
        lines += _excerpt(self.location, source)
        lines += [f"{_prefix(where)}note: {text}" for where, text in self.notes]
        return "\n".join(lines)


def _prefix(location: Location) -> str:
    return f"{location}: " if location.known else ""


def _excerpt(location: Location, source: str | None) -> list[str]:
    if not (location.known and location.column):
        return []
    if source is not None:
        lines = source.split("\n")
        text = lines[location.line - 1] if location.line <= len(lines) else ""
    else:
        text = linecache.getline(location.file, location.line).rstrip("\n")
    if not text.strip():
        return []
    caret = "".join("\t" if c == "\t" else " " for c in text[: location.column - 1]) + "^"
    return [f"    {text}", f"    {caret}"]


class CompileError(Exception):
    """The one exception users see. Carries at least one diagnostic."""

    def __init__(self, *diagnostics: Diagnostic, source: str | None = None) -> None:
        self.diagnostics = diagnostics
        super().__init__("\n".join(d.render(source) for d in diagnostics))


def error(message: str, location: Location = UNKNOWN, *notes: tuple[Location, str]) -> CompileError:
    """The exception for one message; raise it."""
    return CompileError(Diagnostic(location, message, notes))


def op_diagnostic(op: Operation, message: str, *notes: tuple[Location, str]) -> Diagnostic:
    return Diagnostic(op.location, f"'{op.name}' op {message}", notes)


def op_error(op: Operation, message: str, *notes: tuple[Location, str]) -> NoReturn:
    """Fail with `message`, at the place `op` came from."""
    raise CompileError(op_diagnostic(op, message, *notes))


@dataclass
class Diagnostics:
    """A collector, for checks that report all errors of a module and not the first."""

    items: list[Diagnostic] = field(default_factory=list[Diagnostic])

    def add(self, diagnostic: Diagnostic) -> None:
        self.items.append(diagnostic)

    def raise_if_any(self, source: str | None = None) -> None:
        if self.items:
            raise CompileError(*self.items, source=source)
