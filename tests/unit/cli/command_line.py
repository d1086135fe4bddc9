"""Runs `attir` in this process, and a file of functions to run it on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from attir.compiler.cli import main

SUBJECTS = """
import torch
import torch.nn.functional as F


def causal(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def by_hand(q, k, v):
    return torch.softmax(q @ k.transpose(-1, -2) * 0.25, -1) @ v


def twice(q, k, v):
    return by_hand(causal(q, k, v), k, v)


def plus_one(x):
    return x + 1


def leaves(q, k, v):
    raise SystemExit(7)


def fails(q, k, v):
    raise RuntimeError("the first line\\nand a second")


def interrupted(q, k, v):
    raise KeyboardInterrupt


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(16, 16)

    def forward(self, x):
        q = self.linear(x)
        return F.scaled_dot_product_attention(q, x, x)


model = Model()
number = 3
"""


@dataclass(frozen=True)
class Outcome:
    """The exit code and both streams of one command."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line that says what went wrong; there is no traceback, and nothing on stdout."""
        assert self.code == 1, (self.code, self.err)
        assert self.out == ""
        assert "Traceback" not in self.err
        lines = [line for line in self.err.splitlines() if "error: " in line]
        assert len(lines) == 1, self.err
        return lines[0]


Attir = Callable[..., Outcome]


def runner(capsys: pytest.CaptureFixture[str]) -> Attir:
    """`attir(arguments...)`, with the exit code of argparse as any other."""

    def attir(*arguments: str) -> Outcome:
        capsys.readouterr()
        try:
            code = main(arguments)
        except SystemExit as end:
            code = int(end.code or 0)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return attir


def write_subjects(folder: Path) -> str:
    """The path of a file with the functions above."""
    path = folder / "subjects.py"
    path.write_text(SUBJECTS)
    return str(path)


def qkv(sizes: str = "f32[1,2,s,16]", *, k: str = "", v: str = "") -> Sequence[str]:
    """Options for three inputs of the same type, or others for k and v."""
    return [f"--input={name}={text}" for name, text in (("q", sizes), ("k", k or sizes), ("v", v or sizes))]
