"""Writes what happened to a graph into a directory: the IR of every step, kernels, the graph's code."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ..ir.core import Operation
from ..ir.diagnostics import error
from ..ir.printer import print_operation


@dataclass
class Dump:
    """Numbers the files of one graph as they are written; without a directory it writes nothing."""

    directory: Path | None
    count: int = 0

    @staticmethod
    def for_graph(root: str | Path | None, graph: int) -> Dump:
        return Dump(Path(root) / f"graph-{graph}" if root is not None else None)

    def module(self, step: str, module: Operation) -> None:
        """The IR after `step`, with locations, in a form that every tool here reads back."""
        if self.directory is not None:
            self.step(f"{step}.mlir", print_operation(module, locations=True))

    def step(self, name: str, text: str) -> None:
        """A numbered file: `03-<name>`."""
        self.file(f"{self.count:02}-{name}", text)
        self.count += 1

    def file(self, name: str, text: str) -> None:
        if self.directory is not None:
            write_whole(self.directory / name, text)


def write_whole(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old text or the new one, never a part."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as problem:
        raise error(f"cannot write {path}: {problem.strerror or problem}") from problem
