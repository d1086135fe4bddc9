"""Writes the generic MLIR form, accepted by the real MLIR parser and by ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from .attributes import Attribute, FunctionType, entry_text, quoted
from .core import Block, Operation, Region, Value


def print_operation(operation: Operation, *, locations: bool = False) -> str:
    """The text of an operation and everything inside it, ending in a newline."""
    return Printer(locations).operation_text(operation) + "\n"


@dataclass
class Printer:
    """Names values as it meets them: by their hint where it is free, else by number."""

    locations: bool = False
    names: dict[Value, str] = field(default_factory=dict[Value, str])
    taken: set[str] = field(default_factory=set[str])
    counter: int = 0

    def name(self, value: Value) -> str:
        if value not in self.names:
            self.names[value] = self._fresh(value.name_hint)
        return self.names[value]

    def _fresh(self, hint: str | None) -> str:
        base = re.sub(r"\W", "_", hint, flags=re.ASCII) if hint else ""
        if base and not base[0].isdigit():
            candidate, suffix = base, 0
            while candidate in self.taken:
                suffix += 1
                candidate = f"{base}_{suffix}"
        else:
            candidate = str(self.counter)
            self.counter += 1
        self.taken.add(candidate)
        return candidate

    def operation_text(self, op: Operation, indent: str = "") -> str:
        results = ", ".join(f"%{self.name(r)}" for r in op.results)
        text = f"{indent}{results} = " if results else indent
        text += f"{quoted(op.name)}({', '.join(f'%{self.name(v)}' for v in op.operands)})"
        if op.properties:
            text += f" <{dictionary_text(op.properties)}>"
        if op.regions:
            text += f" ({', '.join(self.scoped_region_text(op, r, indent) for r in op.regions)})"
        if op.attributes:
            text += f" {dictionary_text(op.attributes)}"
        text += f" : {FunctionType(tuple(v.type for v in op.operands), tuple(r.type for r in op.results))}"
        if self.locations and op.location.known:
            where = op.location
            text += f" loc({quoted(where.file)}:{where.line}:{where.column})"
        return text

    def scoped_region_text(self, op: Operation, region: Region, indent: str) -> str:
        """A function sees no name from outside, so its names start afresh, as MLIR allows."""
        if op.name != "func.func":
            return self.region_text(region, indent)
        return Printer(self.locations).region_text(region, indent)

    def region_text(self, region: Region, indent: str) -> str:
        if region.empty:
            return "{\n" + indent + "}"
        blocks = "".join(self.block_text(b, i, indent) for i, b in enumerate(region.blocks))
        return "{\n" + blocks + indent + "}"

    def block_text(self, block: Block, number: int, indent: str) -> str:
        lines: list[str] = []
        if block.arguments or number or not block.ops:
            arguments = ", ".join(f"%{self.name(a)}: {a.type}" for a in block.arguments)
            lines.append(f"{indent}^bb{number}{f'({arguments})' if arguments else ''}:\n")
        lines += [self.operation_text(op, indent + "  ") + "\n" for op in block.ops]
        return "".join(lines)


def dictionary_text(entries: Mapping[str, Attribute]) -> str:
    """`{key = value, flag}`, sorted by key so that equal dictionaries print equally."""
    items = sorted(entries.items())
    return "{" + ", ".join(entry_text(k, v) for k, v in items) + "}"
