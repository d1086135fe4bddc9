"""What every test of the command line starts from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from unit.cli.command_line import Attir, runner, write_subjects


@pytest.fixture
def attir(capsys: pytest.CaptureFixture[str]) -> Iterator[Attir]:
    """Runs a command in this process."""
    torch.compiler.reset()  # pyright: ignore[reportUnknownMemberType]
    yield runner(capsys)
    torch.compiler.reset()  # pyright: ignore[reportUnknownMemberType]


@pytest.fixture
def subjects(tmp_path: Path) -> str:
    """The path of a file with functions to compile."""
    return write_subjects(tmp_path)
