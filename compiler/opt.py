"""`attir opt`: reads IR text, runs passes on it, prints IR text; the IR alone goes to stdout."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from ..ir.core import Operation
from ..ir.diagnostics import CompileError, Diagnostic, error
from ..ir.parser import parse_module
from ..ir.printer import print_operation
from ..ir.torch_text import resource_section
from ..ir.verifier import verify
from ..passes.manager import Pass, PassContext
from ..passes.pipeline import Moment, PassPipeline, RunSettings, option_types, parse_pipeline, type_name
from ..passes.registry import PASSES
from .expected_diagnostics import compare
from .signatures import signature

SPLIT = "// -----"
EVERY = "*"
"""What --print-ir-before and --print-ir-after mean without the name of a pass."""


def run(argv: Sequence[str]) -> int:
    """`attir opt` of the command line."""
    return run_opt(argv, sys.stdout, sys.stderr)


def run_opt(argv: Sequence[str], stdout: TextIO, stderr: TextIO) -> int:
    """Run `attir opt` with `argv`; 0 if all went well, 1 for an error of the user's, 2 for wrong usage."""
    try:
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            arguments = _argument_parser().parse_args(argv)
    except SystemExit as end:  # argparse's way to say that it has answered or complained
        return int(end.code or 0)
    if arguments.list_passes:
        stdout.write(list_passes())
        return 0
    if arguments.file is None:
        stderr.write("attir opt: name a file, or - for standard input\n")
        return 2
    try:
        return _Session(arguments, stdout, stderr).run()
    except CompileError as problem:
        stderr.write(f"{problem}\n")
        return 1


def list_passes() -> str:
    """The name, purpose and options of every pass."""
    lines: list[str] = []
    for name, kind in sorted(PASSES.items()):
        lines.append(f"{name}: {(kind.__doc__ or '').strip().splitlines()[0]}")
        lines += [f"    {option}: {type_name(type_)}" for option, type_ in option_types(kind).items()]
    return "\n".join(lines) + "\n"


def _argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="attir opt", description="Run passes on IR text in MLIR's generic form.", allow_abbrev=False
    )
    add = parser.add_argument
    add("file", nargs="?", help="a file of IR, or - for standard input")
    add("--passes", default="", metavar="PIPELINE", help="such as 'canonicalize,plan{target=sm_80},dce'")
    add("--verify-each", action="store_true", help="check the IR after every pass, not only at the end")
    add("--split-input-file", action="store_true", help=f"treat what lies between '{SPLIT}' lines as separate files")
    add("--verify-diagnostics", action="store_true", help="check expected-error, -remark and -note comments")
    add("--timing", action="store_true", help="say how long each pass took")
    add("--statistics", action="store_true", help="say how often each rewrite happened")
    add("--debug-patterns", action="store_true", help="say why patterns did not apply")
    for moment in ("before", "after"):
        add(f"--print-ir-{moment}", action="append", nargs="?", const=EVERY, default=[], metavar="PASS")
    add("--print-ir-after-all", action="store_true", help="the same as --print-ir-after")
    add("--print-ir-after-change", action="store_true", help="print IR after the passes that changed it")
    add("--allow-unregistered-dialect", action="store_true", help="accept operations of unknown dialects")
    add("--print-locations", action="store_true", help="print where operations come from")
    add("--list-passes", action="store_true", help="list passes with their options")
    return parser


@dataclass
class _Session:
    """One invocation: the chunks of its input, one after the other."""

    arguments: argparse.Namespace
    stdout: TextIO
    stderr: TextIO
    printed: dict[str, str] = field(default_factory=dict[str, str])

    def run(self) -> int:
        pipeline = parse_pipeline(self.arguments.passes)
        self._check_pass_names(pipeline)
        filename, text = _read(self.arguments.file)
        chunks = list(_chunks(text)) if self.arguments.split_input_file else [text]
        outcomes = [self._run_chunk(pipeline, chunk, filename) for chunk in chunks]
        outputs = [output for output, _ in outcomes if output is not None]
        self.stdout.write(f"{SPLIT}\n".join(outputs))
        return max((code for _, code in outcomes), default=0)

    def _check_pass_names(self, pipeline: PassPipeline) -> None:
        names = [step.name for step in pipeline.passes]
        for wanted in (*self.arguments.print_ir_before, *self.arguments.print_ir_after):
            if wanted != EVERY and wanted not in names:
                raise error(f"pass '{wanted}' is not in the pipeline ({', '.join(names) or 'which is empty'})")

    def _run_chunk(self, pipeline: PassPipeline, text: str, filename: str) -> tuple[str | None, int]:
        """The text after the passes, None after an error, and the exit code."""
        context, output, failed = PassContext(signatures=signature), None, False
        diagnostics: list[Diagnostic] = []
        try:
            output = self._transformed(pipeline, text, filename, context)
        except CompileError as problem:
            diagnostics += problem.diagnostics
            failed = True
        diagnostics = [*context.remarks, *diagnostics]
        if self.arguments.verify_diagnostics:
            diagnostics = compare(diagnostics, text, filename)
            failed = bool(diagnostics)
        for diagnostic in diagnostics:
            source = text if diagnostic.location.file == filename else None
            self.stderr.write(f"{diagnostic.render(source)}\n")
        self._report(context)
        return output, int(failed)

    def _transformed(self, pipeline: PassPipeline, text: str, filename: str, context: PassContext) -> str:
        unregistered = self.arguments.allow_unregistered_dialect
        module = parse_module(text, filename)
        verify(module, text, allow_unregistered=unregistered)
        if self.arguments.print_ir_after_change:
            self.printed["last"] = print_operation(module)
        settings = RunSettings(self.arguments.verify_each, unregistered, self._observe)
        timing = pipeline.run(module, context, settings)
        verify(module, text, allow_unregistered=unregistered)
        if self.arguments.timing:
            self.stderr.writelines(f"{1e3 * seconds:10.3f} ms  {name}\n" for name, seconds in timing)
        return self._text(module) + resource_section(text)

    def _text(self, module: Operation) -> str:
        return print_operation(module, locations=self.arguments.print_locations)

    def _observe(self, moment: Moment, step: Pass, module: Operation) -> None:
        wanted = self.arguments.print_ir_before if moment == "before" else self.arguments.print_ir_after
        every = EVERY in wanted or (moment == "after" and self.arguments.print_ir_after_all)
        if every or step.name in wanted or (moment == "after" and self._changed(module)):
            self.stderr.write(f"// -----// IR {moment} {step.name} //----- //\n{self._text(module)}")

    def _changed(self, module: Operation) -> bool:
        """Whether the module differs from when this was last asked, if that is to be printed."""
        if not self.arguments.print_ir_after_change:
            return False
        last, self.printed["last"] = self.printed["last"], print_operation(module)
        return last != self.printed["last"]

    def _report(self, context: PassContext) -> None:
        if self.arguments.statistics:
            counts = sorted(context.statistics.items())
            self.stderr.writelines(f"{count:10}  {name}\n" for name, count in counts if count)
        if self.arguments.debug_patterns:
            for miss in dict.fromkeys(context.misses):
                place = f"{miss.location}: " if miss.location.known else ""
                self.stderr.write(f"{place}{miss.pattern}: {miss.reason}\n")


def _read(file: str) -> tuple[str, str]:
    """The name for messages and the text of an input."""
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        return ("<stdin>" if file == "-" else file), data.decode("utf-8")
    except OSError as problem:
        raise error(f"cannot read {file}: {problem.strerror}") from problem
    except UnicodeDecodeError as problem:
        raise error(f"{file} is not text in UTF-8 (byte {problem.start})") from problem


def _chunks(text: str) -> Iterator[str]:
    """The parts of a split file, each at its own line numbers."""
    lines = text.split("\n")
    start = 0
    for number, line in enumerate([*lines, SPLIT]):
        if line.startswith(SPLIT):
            yield "\n" * start + "\n".join(lines[start:number]) + "\n"
            start = number + 1
