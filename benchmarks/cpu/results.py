"""What a benchmark found: sections of rows, the bars they are held to, as markdown and as JSON."""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_ROW = "@row"


@dataclass(frozen=True)
class Bar:
    """What the figures in `column` are held to, each of them or, with `mean`, their geometric mean."""

    column: str
    bound: float
    at_least: bool = True
    mean: bool = False

    def __str__(self) -> str:
        sign = "≥" if self.at_least else "≤"
        return f"{self.column} {sign} {self.bound:g}, {'geometric mean' if self.mean else 'everywhere'}"

    def met_by(self, figure: float) -> bool:
        return figure >= self.bound if self.at_least else figure <= self.bound


@dataclass(frozen=True)
class Row:
    """One line: what was measured in words, and its figures by column.

    `note` says what is special, such as why a rival is missing; `times` are the raw seconds.
    """

    labels: Mapping[str, str]
    figures: Mapping[str, float]
    note: str = ""
    times: Mapping[str, list[float]] = field(default_factory=dict[str, list[float]])

    @property
    def name(self) -> str:
        return " ".join(self.labels.values())

    def as_record(self) -> dict[str, Any]:
        times = {name: [float(f"{t:.4g}") for t in seconds] for name, seconds in self.times.items()}
        figures = {name: float(f"{figure:.5g}") for name, figure in self.figures.items()}
        note = {"note": self.note} if self.note else {}
        return {**self.labels, **figures, **note, "seconds": times}


@dataclass(frozen=True)
class Verdict:
    """A bar and what it was applied to: how many figures, those that miss it, and the mean if it is held to that."""

    bar: Bar
    count: int
    missed: tuple[tuple[str, float], ...]
    mean: float | None = None

    @property
    def met(self) -> bool:
        """A bar without any figure is not met: what was to be measured is missing."""
        return self.count > 0 and not self.missed

    def __str__(self) -> str:
        word = "pass" if self.met else "FAIL"
        if self.count == 0:
            return f"{word}  {self.bar}: nothing was measured"
        if self.mean is not None:
            return f"{word}  {self.bar}: {shown(self.mean)} over {self.count}"
        missed = "".join(f"\n          {name}: {shown(figure)}" for name, figure in self.missed)
        return f"{word}  {self.bar}: {self.count - len(self.missed)} of {self.count}{missed}"


@dataclass
class Section:
    """One table."""

    name: str
    title: str
    bars: tuple[Bar, ...]
    rows: list[Row] = field(default_factory=list[Row])

    @property
    def verdicts(self) -> list[Verdict]:
        return [judge(bar, self.rows) for bar in self.bars]

    def table(self) -> str:
        """Markdown: labels, figures, and notes if there are any."""
        labels = _union([row.labels for row in self.rows])
        columns = _union([row.figures for row in self.rows])
        notes = ["note"] if any(row.note for row in self.rows) else []
        header = [*labels, *columns, *notes]
        lines = [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
        for row in self.rows:
            cells = [row.labels.get(label, "") for label in labels]
            cells += [shown(row.figures[c]) if c in row.figures else "–" for c in columns]
            lines.append(f"| {' | '.join(cells + ([row.note] if notes else []))} |")
        return "\n".join(lines)

    def __str__(self) -> str:
        judged = "\n".join(f"    {verdict}" for verdict in self.verdicts)
        return f"### {self.name}: {self.title}\n\n{self.table()}\n\n{judged}\n"

    def as_record(self) -> dict[str, Any]:
        """Everything but the rows, whose places are marked."""
        bars = [
            {"bar": str(v.bar), "met": v.met, "of": v.count, "mean": v.mean, "missed": dict(v.missed)}
            for v in self.verdicts
        ]
        return {"title": self.title, "bars": bars, "rows": [_ROW for _ in self.rows]}


def judge(bar: Bar, rows: Sequence[Row]) -> Verdict:
    """Apply a bar to every figure in its column."""
    figures = [(row.name, row.figures[bar.column]) for row in rows if bar.column in row.figures]
    if not bar.mean or not figures:
        return Verdict(bar, len(figures), tuple((n, f) for n, f in figures if not bar.met_by(f)))
    mean = math.exp(statistics.fmean(math.log(f) for _, f in figures))
    return Verdict(bar, len(figures), () if bar.met_by(mean) else (("geometric mean", mean),), mean)


def shown(figure: float) -> str:
    """A figure with three digits."""
    if figure == 0 or 1e-3 <= abs(figure) < 1e6:
        digits = 0 if figure == 0 else max(0, 2 - math.floor(math.log10(abs(figure))))
        return f"{figure:.{digits}f}"
    return f"{figure:.1e}"


def as_json(head: Mapping[str, Any], sections: Sequence[Section]) -> str:
    """`head` and every section, a row on a line."""
    rows = [json.dumps(row.as_record(), ensure_ascii=False) for section in sections for row in section.rows]
    record = {**head, "sections": {section.name: section.as_record() for section in sections}}
    pieces = json.dumps(record, indent=1, ensure_ascii=False).split(f'"{_ROW}"')
    return "".join(piece + row for piece, row in itertools.zip_longest(pieces, rows, fillvalue="")) + "\n"


def _union(mappings: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for mapping in mappings for key in mapping))
