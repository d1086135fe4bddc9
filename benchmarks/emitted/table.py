"""The table of bars: one line each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    bar: str
    figure: str
    holds: bool

    def __str__(self) -> str:
        return f"| {self.what} | {self.bar} | {self.figure} | {'yes' if self.holds else 'NO'} |"


HEADER = "| what | bar | figure | holds |\n|---|---|---|---|"
