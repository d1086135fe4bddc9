"""Writes what happened to a graph into a directory: the IR of every step, kernels, the graph's code."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from ..ir.core import Operation
from ..ir.diagnostics import error
from ..ir.printer import print_operation

KERNEL_STEP = "kernel"
"""The step that is no pass: what was emitted."""

ENDINGS: Mapping[str, str] = {"triton": "py", "mlir": "mlir"}
"""How files with kernels end, by language."""


@dataclass(frozen=True)
class Step:
    """The text after one step: IR after a pass, or what was emitted.

    `scope` is "main" for the whole graph or the name of a site, `name` the pass or stage, `kind`
    the file's ending, `mlir` for IR, and for kernels of MLIR's own dialects.
    """

    graph: int
    scope: str
    name: str
    kind: str
    text: str


Listener: TypeAlias = Callable[[Step], None]


@dataclass
class Dump:
    """Hands the steps of one graph on: to numbered files, where there is a directory, and to a listener."""

    directory: Path | None
    graph: int = 0
    listener: Listener | None = None
    count: int = 0

    @staticmethod
    def for_graph(root: str | Path | None, graph: int, listener: Listener | None = None) -> Dump:
        return Dump(Path(root) / f"graph-{graph}" if root is not None else None, graph, listener)

    @property
    def wanted(self) -> bool:
        return self.directory is not None or self.listener is not None

    def module(self, scope: str, name: str, module: Operation) -> None:
        """The IR after `name`, with locations, in a form that every tool here reads back."""
        if self.wanted:
            self.step(scope, name, "mlir", print_operation(module, locations=True))

    def step(self, scope: str, name: str, kind: str, text: str) -> None:
        """A numbered file: `03-attention_0_0.plan.mlir`, or `01-canonicalize.mlir` for the whole graph."""
        prefix = "" if scope == "main" else f"{scope}."
        self.file(f"{self.count:02}-{prefix}{name}.{kind}", text)
        self.count += 1
        if self.listener is not None:
            self.listener(Step(self.graph, scope, name, kind, text))

    def file(self, name: str, text: str) -> None:
        if self.directory is not None:
            write_whole(self.directory / name, text)


def check_directory(path: Path) -> None:
    """Fail where files could not be put into `path`; it need not exist, and is not made."""
    present = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    if not present.is_dir():
        raise error(f"cannot write into {path}: {present} is not a directory")
    if not os.access(present, os.W_OK | os.X_OK):
        raise error(f"cannot write into {path}: {present} is not writable")


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader sees the old text or the new one, never a part."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as problem:
        raise error(f"cannot write {path}: {problem.strerror or problem}") from problem
