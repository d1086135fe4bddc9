"""Where an operation came from: a point in a file of IR or of the user's Python."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Location:
    """A point in a file; line and column count from 1, a column of 0 means the whole line."""

    file: str
    line: int
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.column else f"{self.file}:{self.line}"

    @property
    def known(self) -> bool:
        return self.line > 0


UNKNOWN = Location("<unknown>", 0)
