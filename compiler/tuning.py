"""How much a user lets the compiler measure before it decides; measures nothing itself."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from ..ir.diagnostics import error

SECONDS = 10.0
"""What measuring may take for a site and a bucket of sizes."""

BACKGROUND_COUNT = 3
"""Candidates that `background` alone measures."""

_TOP = re.compile(r"top([1-9][0-9]*)")
_EXPECTED = "expected 'off', 'topK' with a number K such as 'top3', 'full', 'background' or 'background:top8'"


@dataclass(frozen=True)
class Tuning:
    """Measure the best `count` candidates by the model, None for all of them, 0 for none; for at most `seconds`.

    In the `background` the first calls run the model's choice meanwhile. `shown` says whether progress is shown; None
    for where it is read, on a terminal.
    """

    count: int | None = 0
    background: bool = False
    seconds: float = SECONDS
    shown: bool | None = None

    @property
    def wanted(self) -> bool:
        """Whether anything is measured."""
        return self.count != 0

    @property
    def effort(self) -> int:
        """How many candidates are tried at most, -1 for all: what a plan that was kept must have been chosen among."""
        return -1 if self.count is None else self.count

    def satisfied_by(self, effort: int) -> bool:
        """Whether a plan that was chosen with `effort` needs no more measuring."""
        return effort == -1 or (self.count is not None and effort >= self.count)

    @staticmethod
    def parse(text: Any, seconds: Any = SECONDS) -> Tuning:
        """From the option `autotune` and its budget; CompileError in words where either is none."""
        if not isinstance(text, str):
            raise error(f"autotune must be a string, but is {text!r}; {_EXPECTED}")
        if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not 0 < seconds < math.inf:
            raise error(f"tune_seconds must be a positive number of seconds for a site, but is {seconds!r}")
        if text == "off":
            return Tuning(seconds=float(seconds))
        first, _, rest = text.partition(":")
        background = first == "background"
        count = _count(rest if background and rest else text, background and text == first)
        if count == 0 or (background and text.endswith(":")):
            raise error(f"unknown autotune {text!r}; {_EXPECTED}")
        return Tuning(count, background, float(seconds))


def _count(text: str, background: bool) -> int | None:
    """Candidates that a word asks for, None for all; 0 where it is no such word."""
    if background:
        return BACKGROUND_COUNT
    if text == "full":
        return None
    found = _TOP.fullmatch(text)
    return 0 if found is None else int(found[1])


OFF = Tuning()
