"""Every console example in README and docs is run, and its output compared.

A block fenced as `console` holds lines `$ command` and the output that follows; `...` stands for
anything, as in doctest. Measured errors and times, line counts of kernels, the place of installed
packages, and the plan of a native kernel with what it absorbs and visits, which is made for the CPU
at hand, and what is predicted may differ from the page. `make` commands are what surrounds this test
and are not run inside it; a block fenced as `console gpu` needs a device and is only checked to name
commands that exist.
"""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^```console(?P<needs> gpu)?\n(?P<body>.*?)^```", re.MULTILINE | re.DOTALL)


_VARYING = (
    (re.compile(r"\d\.\de-\d\d"), "<error>"),
    (re.compile(r"\d+\.\d s"), "<seconds>"),
    (re.compile(r"\d+ lines"), "<lines>"),
    (re.compile(r"\((compiled|from the cache|from an equal kernel) in \d+ ms\)"), "(made)"),
    (re.compile(r"plan +\S.*, target=avx\w+\n +because .*"), "<plan for this CPU>"),
    (re.compile(r"( v, heads \d+/\d+), rope\(half\)"), r"\1"),
    (re.compile(r"\n +rows +\w+ (absorbed|stays outside): .*"), ""),
    (re.compile(r"\n +tiles +\d+ of \d+ live, .*"), ""),
    (re.compile(r"\n +(predicted|measured|next|among|note) +.*"), ""),
    (re.compile(r"\S*site-packages/(\S+):\d+"), r"\1"),
)


def normalised(text: str) -> str:
    for pattern, replacement in _VARYING:
        text = pattern.sub(replacement, text)
    return text


@dataclass(frozen=True)
class Example:
    page: str
    line: int
    command: str
    expected: str


def examples() -> Iterator[Example]:
    for page in PAGES:
        text = page.read_text()
        for block in _BLOCK.finditer(text):
            if block["needs"]:
                continue
            line = text.count("\n", 0, block.start()) + 1
            for piece in re.split(r"^\$ ", block["body"], flags=re.MULTILINE)[1:]:
                command, _, expected = piece.partition("\n")
                if not command.startswith("make "):
                    yield Example(page.name, line, command, expected)


@pytest.mark.parametrize("example", list(examples()), ids=lambda e: f"{e.page}:{e.line}:{e.command[:40]}")
def test_console_example(example: Example, tmp_path: Path) -> None:
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "TMPDIR": str(tmp_path),
    }
    done = subprocess.run(
        example.command, shell=True, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    checker = doctest.OutputChecker()
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    assert checker.check_output(normalised(example.expected), normalised(done.stdout), flags), (
        f"{example.page}:{example.line}: $ {example.command} (exit {done.returncode})\n"
        f"--- expected\n{example.expected}--- got\n{done.stdout}--- stderr\n{done.stderr}"
    )


def test_every_page_is_reached() -> None:
    assert PAGES[0].is_file()
    assert any(example.page == "README.md" for example in examples())
