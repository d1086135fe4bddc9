"""Passes, their options, and the context they report to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass, field
from typing import ClassVar

from ..ir.core import Operation
from ..ir.diagnostics import Diagnostic
from ..ir.dialects.aten_schema import Signatures, no_signatures
from ..ir.location import Location


@dataclass(frozen=True)
class Miss:
    """Why a pattern did not apply to an operation it looked at."""

    pattern: str
    location: Location
    reason: str


@dataclass
class PassContext:
    """What a pass may know and say besides the IR: schemas; statistics, remarks and misses."""

    statistics: Counter[str] = field(default_factory=Counter[str])
    remarks: list[Diagnostic] = field(default_factory=list[Diagnostic])
    misses: list[Miss] = field(default_factory=list[Miss])
    signatures: Signatures = no_signatures

    def remark(self, op: Operation, message: str) -> None:
        """Tell the user something about `op`."""
        self.remarks.append(Diagnostic(op.location, message, severity="remark"))

    def miss(self, pattern: str, op: Operation, reason: str) -> None:
        self.misses.append(Miss(pattern, op.location, reason))


@dataclass(frozen=True)
class Pass(ABC):
    """Module in, module out. Fields are the pass's command-line options, the docstring its help."""

    name: ClassVar[str]

    @abstractmethod
    def run(self, module: Operation, ctx: PassContext) -> None:
        """Change `module` in place."""
