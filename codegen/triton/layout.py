"""Breaks generated Python into lines: long calls at their commas, lists of arguments where they are full."""

from __future__ import annotations

from collections.abc import Sequence

COLUMNS = 100


def wrapped(line: str) -> list[str]:
    """`line`, or if it is too long: its call with the arguments, or the sum it assigns, on lines below."""
    if len(line) <= COLUMNS:
        return [line]
    indent = line[: len(line) - len(line.lstrip())]
    inner = indent + "    "
    if not line.endswith(")"):
        target, _, total = line.partition(" = ")
        terms = _split_sum(inner + total)
        return [line] if len(terms) < 2 else [f"{target} = (", *terms, f"{indent})"]
    start = _opening(line)
    arguments = split_outside_parentheses(line[start + 1 : -1], ",")
    if len(arguments) < 2:
        terms = _split_sum(inner + line[start + 1 : -1])
        return [line] if len(terms) < 2 else [line[: start + 1], *terms, f"{indent})"]
    packed = inner + ", ".join(arguments)
    middle = [packed] if len(packed) <= COLUMNS else [line for a in arguments for line in wrapped_argument(inner + a)]
    return [line[: start + 1], *middle, f"{indent})"]


def wrapped_argument(line: str) -> list[str]:
    """One argument on its own line, broken again where it is a call or a sum that is still too long."""
    *first, last = wrapped(line) if line.endswith(")") else _split_sum(line)
    return [*first, last + ","]


def _split_sum(line: str) -> list[str]:
    """A long sum inside parentheses, one term a line."""
    indent = line[: len(line) - len(line.lstrip())]
    terms = split_outside_parentheses(line.strip(), " + ")
    if len(line) <= COLUMNS or len(terms) < 2:
        return [line]
    return [indent + terms[0], *(f"{indent}+ {term}" for term in terms[1:])]


def _opening(line: str) -> int:
    """The position of the parenthesis that the last character closes."""
    depth = 0
    for position in range(len(line) - 1, -1, -1):
        depth += (line[position] in ")]}") - (line[position] in "([{")
        if depth == 0:
            return position
    return len(line) - 1


def split_outside_parentheses(text: str, separator: str) -> list[str]:
    """Split at every `separator` outside any parentheses."""
    parts, depth, start = list[str](), 0, 0
    for position, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0 and text.startswith(separator, position):
            parts.append(text[start:position].strip())
            start = position + len(separator)
    return [*parts, text[start:].strip()]


def filled(items: Sequence[str], indent: int = 8) -> list[str]:
    """Arguments or parameters packed into lines, each followed by a comma."""
    lines, current = list[str](), ""
    for item in items:
        if current and indent + len(current) + len(item) + 2 > COLUMNS:
            lines.append(" " * indent + current)
            current = ""
        current += f"{' ' if current else ''}{item},"
    return [*lines, *([" " * indent + current] if current else [])]
