"""Functions and files stay small enough to read in one go; an exception says why."""

from __future__ import annotations

import ast
import io
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("attir", "compiler", "passes", "codegen", "cost_model", "ir", "benchmarks", "examples")
STATEMENTS, LINES = 40, 400
LONGER: dict[str, str] = {}
"""Files over the budget, each with the reason."""


def files() -> list[Path]:
    return [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


def code_lines(text: str) -> int:
    """Lines that hold code: no comments, docstrings or blanks."""
    skipped = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in skipped:
            lines.update(range(token.start[0], token.end[0] + 1))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            lines.difference_update(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return len(lines)


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_budget(path: Path) -> None:
    text, name = path.read_text(), str(path.relative_to(ROOT))
    if name not in LONGER:
        assert code_lines(text) <= LINES, f"{name} has {code_lines(text)} lines of code, the budget is {LINES}"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            count = sum(isinstance(inner, ast.stmt) for inner in ast.walk(node)) - 1
            assert count <= STATEMENTS, f"{name}: {node.name} has {count} statements, the budget is {STATEMENTS}"
