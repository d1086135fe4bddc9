"""What a run writes down: what was checked, every time that was taken, what could not run, and the figures."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True)
class Checked:
    """One kernel against attention in float64; `bound` is twice the plain error plus rounding."""

    case: str
    error: float
    bound: float

    @property
    def holds(self) -> bool:
        return self.error <= self.bound


@dataclass(frozen=True)
class Timed:
    """Raw times of one contender, in milliseconds, with the work it did, and its schedule if it is ours."""

    problem: str
    contender: str
    milliseconds: Sequence[float]
    flops: float = 0.0
    bytes: float = 0.0
    schedule: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def median(self) -> float:
        return statistics.median(self.milliseconds)

    def __str__(self) -> str:
        rates = [f"{self.flops / self.median / 1e9:8.1f} TFLOP/s"] if self.flops else []
        rates += [f"{self.bytes / self.median / 1e9:8.2f} TB/s"] if self.bytes else []
        return f"{self.problem:<44} {self.contender:<28} {self.median:9.4f} ms {' '.join(rates)}"


@dataclass(frozen=True)
class Figure:
    """One line of the closing table: a value with the bar it must reach and the stretch beyond it."""

    what: str
    value: float
    unit: str
    bar: float
    stretch: float | None
    note: str = ""

    @property
    def holds(self) -> bool:
        return self.value >= self.bar

    def __str__(self) -> str:
        stretch = "" if self.stretch is None else f"{self.stretch:g}"
        answer = "yes" if self.holds else "NO"
        return f"| {self.what} | {self.value:.2f} {self.unit} | {self.bar:g} | {stretch} | {answer} | {self.note} |"


HEADER = "| what | figure | bar | stretch | holds | how |\n|---|---|---|---|---|---|"


@dataclass
class Record:
    """What the JSON holds; `collected` are times with schedules, for a cost model."""

    date: str
    device: str
    versions: Mapping[str, str]
    tests: str = "not run"
    checked: list[Checked] = field(default_factory=list[Checked])
    timed: list[Timed] = field(default_factory=list[Timed])
    absent: dict[str, str] = field(default_factory=dict[str, str])
    figures: list[Figure] = field(default_factory=list[Figure])
    collected: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    @staticmethod
    def start() -> Record:
        date = datetime.datetime.now(datetime.UTC).date().isoformat()
        versions = {name: importlib.metadata.version(name) for name in ("torch", "triton", "numpy")}
        versions["python"] = platform.python_version()
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu, Triton's interpreter"
        return Record(date, device, versions)

    def of(self, problem: str) -> dict[str, Timed]:
        """The contenders of one problem."""
        return {timed.contender: timed for timed in self.timed if timed.problem == problem}
