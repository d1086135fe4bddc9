"""Dumps are numbered, whole, and readable again."""

from __future__ import annotations

from pathlib import Path

import pytest

from attir.compiler.dump import Dump, Step, write_whole
from attir.ir.core import Block, Operation, Region
from attir.ir.diagnostics import CompileError
from attir.ir.printer import print_operation


def empty_module() -> Operation:
    return Operation.create("builtin.module", regions=[Region([Block()])])


def test_files_are_numbered_in_the_order_of_steps(tmp_path: Path) -> None:
    dump = Dump.for_graph(tmp_path, 3)
    dump.module("main", "aten", empty_module())
    dump.step("attention_3_0", "kernel", "py", "pass\n")
    assert sorted(p.name for p in (tmp_path / "graph-3").iterdir()) == ["00-aten.mlir", "01-attention_3_0.kernel.py"]
    assert (tmp_path / "graph-3" / "00-aten.mlir").read_text() == print_operation(empty_module())


def test_a_listener_hears_of_every_step() -> None:
    heard: list[Step] = []
    Dump.for_graph(None, 1, heard.append).module("main", "aten", empty_module())
    assert [(s.graph, s.scope, s.name, s.kind) for s in heard] == [(1, "main", "aten", "mlir")]


def test_without_a_directory_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Dump.for_graph(None, 0).module("main", "aten", empty_module())
    assert not list(tmp_path.iterdir())


def test_a_directory_that_cannot_be_written_is_an_error_in_words(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(CompileError, match=r"cannot write .*taken"):
        write_whole(tmp_path / "taken" / "x.mlir", "text")


def test_a_failed_write_leaves_the_old_text(tmp_path: Path) -> None:
    path = tmp_path / "x.mlir"
    write_whole(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "\ud800")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.mlir"]
