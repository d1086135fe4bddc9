"""Families of problems: those that one kernel program serves, and which of them no model is trained on."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from ..ir.diagnostics import error

PREFILL, FEW, DECODE = "prefill", "few", "decode"
REGIMES = (PREFILL, FEW, DECODE)
"""Many queries; a few, which share a tile with their group; one."""

HELD_OUT_WIDTHS, HELD_OUT_GROUPS = (96,), (8,)
HELD_OUT_FORMS = ("softcap", "causal softcap", "window512")
"""Head dimensions, query heads for each key head and forms that no model is trained on."""

HELD_OUT_PERCENT = 4
"""Of the other families, those held out by the digest of their names."""

_NAME = re.compile(r"(?P<dtype>\w+) D(?P<width>\d+)(?:/(?P<value>\d+))? g(?P<group>\d+) (?P<regime>\w+): (?P<form>.+)")


@dataclass(frozen=True)
class Family:
    """Element type of q, k and v, head dimensions, query heads for each key head, regime and form."""

    dtype: str
    width: int
    value_width: int
    group: int
    regime: str
    form: str

    @property
    def name(self) -> str:
        """Such as `f16 D64 g4 decode: alibi`, or `f32 D192/128 g1 prefill: causal`."""
        value = "" if self.value_width == self.width else f"/{self.value_width}"
        return f"{self.dtype} D{self.width}{value} g{self.group} {self.regime}: {self.form}"

    @staticmethod
    def parse(name: str) -> Family:
        """The family of a name."""
        found = _NAME.fullmatch(name)
        if found is None or found["regime"] not in REGIMES:
            raise error(f"a family is named such as 'f16 D64 g4 decode: alibi', but this is '{name}'")
        width = int(found["width"])
        return Family(
            found["dtype"], width, int(found["value"] or width), int(found["group"]), found["regime"], found["form"]
        )


def held_out(family: Family | str) -> bool:
    """Whether no model is trained on it: such problems show what a model is worth on what it has not seen."""
    found = Family.parse(family) if isinstance(family, str) else family
    return (
        found.width in HELD_OUT_WIDTHS
        or found.group in HELD_OUT_GROUPS
        or found.form in HELD_OUT_FORMS
        or hashlib.sha256(found.name.encode()).digest()[0] * 100 < HELD_OUT_PERCENT * 256
    )
