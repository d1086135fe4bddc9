"""Runs every tests/check/**/*.mlir file, one pytest item for each `// RUN:` line.

    // RUN: attir opt %s --passes=canonicalize | filecheck %s
    // RUN: not attir opt %s 2>&1 | filecheck %s --check-prefix=ERROR

The command runs in-process. What a successful run prints must also be accepted by the real MLIR
parser.
"""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from filecheck.finput import FInput
from filecheck.matcher import Matcher
from filecheck.options import Options
from filecheck.parser import Parser
from hypothesis import settings
from oracle.real_parser import assert_accepted

from attir.compiler.opt import SPLIT, run_opt

RUN = "// RUN:"

# CI draws the same examples every time, so that it answers for the change and not for the day.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")


def pytest_configure(config: pytest.Config) -> None:
    """Nothing that earlier sessions or the user have kept decides a test: a session and its processes have a cache."""
    if not hasattr(config, "workerinput"):
        folder = tempfile.mkdtemp(prefix="attir-tests-")
        os.environ["ATTIR_CACHE_DIR"] = folder
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Each test draws the same tensors however many ran before it."""
    torch.set_rng_state(torch.Generator().manual_seed(0).get_state())


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    if file_path.suffix == ".mlir" and "check" in file_path.parts:
        return cast(Any, CheckFile).from_parent(parent, path=file_path)
    return None


class CheckFile(pytest.File):
    """A file of IR with its expectations."""

    def collect(self) -> Iterator[pytest.Item]:
        lines = self.path.read_text().splitlines()
        runs = [(n, line) for n, line in enumerate(lines, start=1) if line.startswith(RUN)]
        if not runs:
            raise self.CollectError(f"{self.path} has no '{RUN}' line")
        for number, line in runs:
            yield cast(Any, CheckRun).from_parent(
                self, name=f"RUN:{number}", command=line.removeprefix(RUN), line=number
            )


class CheckError(AssertionError):
    """A command that did not print what its file says."""


@dataclass(frozen=True)
class Command:
    """A RUN line taken apart: `[not] attir opt ARGUMENTS [2>&1] [| filecheck FILE OPTIONS]`."""

    fails: bool
    arguments: list[str]
    joined: bool
    check: list[str]

    @staticmethod
    def parse(text: str, file: Path) -> Command:
        tool, _, check = text.partition("|")
        words = [str(file) if w == "%s" else w.replace("%s", str(file)) for w in shlex.split(tool)]
        fails = words[:1] == ["not"]
        words = words[fails:]
        if words[:2] != ["attir", "opt"]:
            raise CheckError(f"a RUN line must call 'attir opt', but it is '{text.strip()}'")
        return Command(fails, [w for w in words[2:] if w != "2>&1"], "2>&1" in words, shlex.split(check))


class CheckRun(pytest.Item):
    """One RUN line."""

    def __init__(self, *, command: str, line: int, **kwargs: Any) -> None:
        cast(Any, super()).__init__(**kwargs)
        self.command, self.line = command.strip(), line

    def runtest(self) -> None:
        command = Command.parse(self.command, self.path)
        stdout, stderr = io.StringIO(), io.StringIO()
        code = run_opt(command.arguments, stdout, stderr)
        printed = stdout.getvalue() + (stderr.getvalue() if command.joined else "")
        if (code != 0) != command.fails:
            raise CheckError(f"{self.where()}\nexit code {code}\n{stdout.getvalue()}{stderr.getvalue()}")
        if code == 0:
            for chunk in stdout.getvalue().split(SPLIT):
                assert_accepted(chunk)
        if command.check:
            report = filecheck(self.path, printed, command.check[2:])
            if report:
                raise CheckError(f"{self.where()}\n{report}\n--- output ---\n{printed}")

    def where(self) -> str:
        return f"{self.path}:{self.line}: {self.command}"

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if isinstance(excinfo.value, CheckError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, self.line - 1, self.name


def filecheck(checks: Path, text: str, options: list[str]) -> str:
    """What FileCheck says against `text`; nothing where it is content."""
    prefixes = [o.partition("=")[2] for o in options if o.startswith("--check-prefix=")] or ["CHECK"]
    settings = Options(
        match_filename=str(checks), check_prefixes=prefixes, enable_var_scope=True, reject_empty_vars=True
    )
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        failed = Matcher(settings, FInput("<output>", text), Parser.from_opts(settings)).run()
    return said.getvalue() or "filecheck failed" if failed else ""
