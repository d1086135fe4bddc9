"""The `attir` command: finds the subcommand and turns every expected failure into an exit code."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence

from ..ir.diagnostics import CompileError
from .version import VERSION

COMMANDS: Mapping[str, tuple[str, str]] = {
    "compile": ("compile_command", "capture, fuse and emit the attention of a model"),
    "explain": ("explain_command", "say what happens to each attention of a model, and why"),
    "mask": ("mask_command", "say and draw what a mask keeps"),
    "opt": ("opt", "run passes on IR text"),
    "cache": ("cache_command", "look at what was planned, measured and compiled before; carry it, check it, delete it"),
    "tune": ("tune_command", "measure kernels of a model on this machine, and keep the best"),
    "doctor": ("doctor", "say what is installed and what works here"),
}
"""Each command, the module of this room whose `run` it is, and its help."""

USAGE = "\n".join(
    ["usage: attir [--version] COMMAND ...", "", *(f"  {name:<9} {text}" for name, (_, text) in COMMANDS.items())]
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `attir` with `argv`; 0 if all went well, 1 for an error of the user's, 2 for wrong usage."""
    try:
        code = _dispatch(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
        return code
    except CompileError as problem:
        print(problem, file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader has gone; what Python still holds must not be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


def _dispatch(argv: list[str]) -> int:
    match argv:
        case ["--version" | "-V"]:
            print(f"attir {VERSION}")
            return 0
        case ["--help" | "-h"]:
            print(USAGE)
            return 0
        case [name, *rest] if name in COMMANDS:
            return importlib.import_module(f".{COMMANDS[name][0]}", __package__).run(rest)
        case _:
            wrong = f"attir: '{argv[0]}' is no command\n" if argv else ""
            print(f"{wrong}{USAGE}", file=sys.stderr)
            return 2
