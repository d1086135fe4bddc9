"""Rooms import downwards only, and heavy libraries only where that is a file's job."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BELOW = {
    "ir": (),
    "cost_model": ("ir",),
    "passes": ("cost_model", "ir"),
    "codegen": ("ir",),
    "compiler": ("codegen", "passes", "cost_model", "ir"),
    "attir": ("compiler", "ir"),
}
HEAVY = ("torch", "triton", "transformers", "torch_mlir")
TRAINING = ("cost_model", "training")
"""The folder below the compiler that may import PyTorch, since nothing imports it but commands that train."""
TRAINERS = ("compiler/train_command.py", "compiler/training_samples.py")


def modules() -> list[Path]:
    return [path for room in BELOW for path in sorted((ROOT / room).rglob("*.py"))]


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every import as (level, dotted name); level 0 is absolute."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or ""


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_flow_down(path: Path) -> None:
    inside = path.relative_to(ROOT)
    room, depth = inside.parts[0], len(inside.parts) - 1
    for level, name in imports(ast.parse(path.read_text())):
        if level > depth:
            other = name.partition(".")[0]
            assert other in BELOW[room], f"{inside} imports from {other}"
        elif level == 0 and name.split(".")[0] == "attir":
            assert room == "attir", f"{inside} imports {name} absolutely"
        elif level == 0 and room not in ("compiler", "attir") and inside.parts[:2] != TRAINING:
            assert name.split(".")[0] not in HEAVY, f"{inside} imports {name}"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_only_training_imports_training(path: Path) -> None:
    """So that plans need no PyTorch."""
    inside = path.relative_to(ROOT)
    if inside.parts[:2] == TRAINING or inside.as_posix() in TRAINERS:
        return
    for _, name in imports(ast.parse(path.read_text())):
        assert "training" not in name.split("."), f"{inside} imports {name}"
