"""Says in one line what the user's code raised, and where."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path

from ..ir.diagnostics import CompileError, error
from ..ir.location import UNKNOWN, Location

FAILURES = (Exception, SystemExit)
"""What running the user's code may raise that is to be told in one line."""

_NOT_THE_USERS = tuple(
    str(p) for p in (Path(__file__).parent, sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), "<")
)


def failure(what: str, problem: BaseException) -> CompileError:
    """The error that `what` happened because of `problem`, at the line of the user's that raised it."""
    return error(f"{what}: {in_one_line(problem)}", place_of(problem))


def in_one_line(problem: BaseException) -> str:
    """The kind of an exception and the first line of its message, with the next where it only leads up to that."""
    text = problem.msg if isinstance(problem, SyntaxError) else str(problem)
    lines = text.strip().splitlines()
    shown = 2 if lines and lines[0].endswith(":") else 1
    return ": ".join([type(problem).__name__, *([" ".join(x.strip() for x in lines[:shown])] if lines else [])])


def place_of(problem: BaseException) -> Location:
    """The innermost line of the user's own code that `problem` went through; unknown where there is none."""
    if isinstance(problem, SyntaxError) and problem.filename and problem.lineno:
        return Location(problem.filename, problem.lineno)
    frames = [
        frame
        for frame in traceback.extract_tb(problem.__traceback__)
        if frame.lineno and not frame.filename.startswith(_NOT_THE_USERS)
    ]
    return Location(frames[-1].filename, frames[-1].lineno or 0) if frames else UNKNOWN
