"""`attir compile`: captures a target, fuses its attention, shows any step, checks the result.

IR and kernels go to stdout, everything said about them to stderr.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ..cost_model.cpus import CPUS
from ..cost_model.devices import INTERPRETER, TARGETS
from ..ir.diagnostics import CompileError, error
from ..ir.location import UNKNOWN
from ..passes.registry import PASSES
from .dump import ENDINGS, KERNEL_STEP, Step, check_directory, write_whole
from .host_cpu import host_target
from .input_spec import parse_input
from .native_support import native_problem
from .options import RESTS
from .schemes import parse_scheme
from .sparsity_text import parse_sparsity
from .target import KINDS, load_target, parse_config
from .user_failure import FAILURES, failure

if TYPE_CHECKING:
    from .backend import Backend
    from .native_offline import OfflineNative
    from .offline import OfflineKernel
    from .sites import SiteCompiler

    Offline: TypeAlias = OfflineKernel | OfflineNative

GENERAL = ("aten", "attn", "tile")
STAGES = (*GENERAL, "triton", "mlir")
ASSEMBLIES = ("ttir", "ttgir", "llir", "ptx", "cubin", "amdgcn", "hsaco", "asm")
FOR_CPUS = ("mlir", "asm")
DEVICES = tuple(name for name in TARGETS if name != INTERPRETER)
BINARY = ("cubin", "hsaco")
EVERY = "*"
_LOCATION = re.compile(r' loc\("(?:[^"\\]|\\.)*":\d+:\d+\)')
DEFAULT_GPU = "sm_90"
HERE = f"this CPU, or {DEFAULT_GPU} where there is a GPU or no native code"


def run(argv: Sequence[str]) -> int:
    """`attir compile` of the command line."""
    parser = argument_parser("attir compile", __doc__)
    add = parser.add_argument
    add("--target", choices=DEVICES, help=f"compile kernels for this device, without running them ({HERE})")
    add("--emit", choices=(*STAGES, *ASSEMBLIES), metavar="STAGE", help=f"print {', '.join((*STAGES, *ASSEMBLIES))}")
    add("--output", "-o", metavar="FILE", help="write what --emit shows to a file")
    add("--check", action="store_true", help="run the result and compare it with eager PyTorch")
    add("--autotune", default="off", metavar="HOW", help="choose kernels by measuring: top3, top8, full; with --check")
    for moment in ("before", "after"):
        add(f"--print-ir-{moment}", action="append", nargs="?", const=EVERY, default=[], metavar="PASS")
    add("--print-ir-after-all", action="store_true", help="the same as --print-ir-after")
    add("--print-ir-after-change", action="store_true", help="print IR after the passes that changed it")
    arguments = parser.parse_args(argv)
    if wrong := _conflict(arguments):
        parser.error(wrong)
    return _Session(arguments).run()


def _conflict(arguments: argparse.Namespace) -> str:
    """What makes options useless together, in words; empty where nothing does."""
    if arguments.check and arguments.target:
        return "--check runs the kernels here, and --target compiles them for a device that is not; use one"
    if arguments.autotune != "off" and not arguments.check:
        return "--autotune measures kernels, which only --check runs here; add --check, or use attir tune"
    for lossy in ("sparsity", "quantize"):
        if arguments.check and getattr(arguments, lossy):
            return f"--check compares with the model as it is, and --{lossy} changes what it computes; use one"
    if arguments.output and not arguments.emit:
        return "--output is the file for what --emit shows; add --emit"
    if arguments.emit in BINARY and not arguments.output:
        return f"{arguments.emit} is binary: name a file with --output"
    return _wrong_stage(arguments.emit, arguments.target)


def _wrong_stage(stage: str | None, target: str | None) -> str:
    if stage is None or target is None or stage in GENERAL or (stage in FOR_CPUS) == (target in CPUS):
        return ""
    if target in CPUS:
        return f"{stage} is for GPUs, but {target} is a CPU; expected --emit {', '.join((*GENERAL, *FOR_CPUS))}"
    return f"{stage} is for CPUs, but {target} is a GPU; expected --target {', '.join(CPUS)}"


def default_target(stage: str | None = None) -> str:
    """The device that kernels are shown for where none is named: one that has the wanted stage, if any is wanted."""
    if stage in FOR_CPUS:
        try:
            return host_target()
        except CompileError as problem:
            raise error(f"{problem.diagnostics[0].message}; or name a CPU with --target {', '.join(CPUS)}") from problem
    if stage is not None and stage not in GENERAL:
        return DEFAULT_GPU
    import torch

    return DEFAULT_GPU if torch.cuda.is_available() or native_problem() else host_target()


def argument_parser(program: str, description: str | None) -> argparse.ArgumentParser:
    """What every command that captures a target understands."""
    parser = argparse.ArgumentParser(prog=program, description=description, allow_abbrev=False)
    add = parser.add_argument
    add("subject", metavar="TARGET", help=KINDS)
    add("--config", default="", metavar="K=V,...", help="settings of an hf: model")
    add(
        "--input", action="append", default=[], metavar="NAME=DTYPE[SIZES]", help="q=f16[2,8,s,64]; letters are dynamic"
    )
    add("--strict", action="store_true", help="an attention that is not fused is an error")
    add("--rest", choices=RESTS, default="eager", help="what runs everything but attention")
    add("--backend-options", default="", metavar="K=V,...", help="how kernels for a GPU are built: persistent=true")
    add("--sparsity", default="", metavar="WHAT", help="a mask for every site, or blocks to choose: quest(keep=0.1)")
    add("--quantize", default="", metavar="SCHEME", help="put q, k and v in few bits: int8, kv4, int8(smooth=False)")
    add("--dump", metavar="DIR", help="write the IR of every step, the kernels and the graph there")
    return parser


@dataclass
class Capture:
    """A target, called once through attir's backend.

    `compile_site` compiles sites, attir's own if None.
    """

    arguments: argparse.Namespace
    executes: bool
    target_device: str = "interpret"
    steps: list[Step] = field(default_factory=list[Step])
    compile_site: SiteCompiler | None = None

    def run(self) -> tuple[Backend, Any, Any]:
        """Compile and call the target; return the backend with its report, the result, and a call of eager."""
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the interpreter's small products only wait for threads
        import torch

        from .backend import Backend
        from .input_spec import make_inputs
        from .mlir_program import compile_program, names_program
        from .options import Options
        from .without_running import kernels_for

        arguments = self.arguments
        specs = [parse_input(text) for text in arguments.input]
        wishes = parse_config(arguments.backend_options, "--backend-options")
        lossy: dict[str, Any] = {
            "sparsity": parse_sparsity(arguments.sparsity),
            "quantize": parse_scheme(arguments.quantize),
        }
        options = Options(
            strict=arguments.strict, rest=arguments.rest, dump=arguments.dump, backend_options=wishes,
            autotune=getattr(arguments, "autotune", "off"), **lossy,
        )  # fmt: skip
        given = self.compile_site
        compile_site = given if self.executes or given is not None else kernels_for(self.target_device)
        backend = Backend(options, compile_site, self.steps.append, "" if self.executes else self.target_device)
        # Dynamo logs what fails inside it at length; the one line below says it.
        logging.getLogger("torch").setLevel(logging.CRITICAL)
        if names_program(arguments.subject):
            return backend, *compile_program(arguments.subject, specs, backend, executes=self.executes)
        target = load_target(arguments.subject, parse_config(arguments.config))
        specs = specs or list(target.default_inputs)
        if not specs:
            raise error(f"'{arguments.subject}' needs inputs: --input NAME=DTYPE[SIZE,...] for each tensor it takes")
        positional, named = make_inputs(specs, largest_integer=target.largest_integer)
        compiled: Any = torch.compile(target.call, backend=backend)  # pyright: ignore[reportUnknownMemberType]

        def eager() -> Any:
            with torch.no_grad():
                return target.call(*positional, **named)

        try:
            with torch.no_grad():
                return backend, compiled(*positional, **named), eager
        except CompileError:
            raise
        except FAILURES as problem:  # the user's function, or PyTorch on its behalf
            raise _failed_call(problem, eager, ", ".join(map(str, specs))) from problem


def _failed_call(problem: BaseException, eager: Callable[[], Any], inputs: str) -> CompileError:
    """Why a call failed: in the target's own words where it fails without attir as well."""
    try:
        eager()
    except FAILURES as own:
        return failure(f"the target fails in eager PyTorch, too, on {inputs}", own)
    return failure(f"calling the compiled target on {inputs} failed", problem)


@dataclass
class _Session:
    """One invocation of `attir compile`."""

    arguments: argparse.Namespace

    def run(self) -> int:
        arguments = self.arguments
        self._check_pass_names()
        from .backend import refusals

        device = arguments.target or default_target(arguments.emit)
        if arguments.output:
            check_directory(Path(arguments.output).parent)
        capture = Capture(arguments, executes=arguments.check, target_device=device)
        print(f"capturing {arguments.subject}", file=sys.stderr)
        backend, result, eager = capture.run()
        self._print_steps(capture.steps)
        if not backend.compiled and (refused := refusals(backend.report.sites)):
            raise CompileError(*refused)
        compiled: Mapping[str, Offline] = self._offline(backend, device) if self._needs_offline() else {}
        for name, kernel in compiled.items():
            print(f"{name} for {kernel.summary}", file=sys.stderr if arguments.emit else sys.stdout)
        if arguments.emit:
            self._emit(capture.steps, compiled, backend)
        elif not compiled:
            print(backend.report)
        if arguments.dump:
            print(f"every step lies in {arguments.dump}", file=sys.stderr)
        return self._check(result, eager) if arguments.check else 0

    def _needs_offline(self) -> bool:
        emit = self.arguments.emit
        return (emit is not None and emit not in STAGES) or (self.arguments.target is not None and emit is None)

    def _check_pass_names(self) -> None:
        for wanted in (*self.arguments.print_ir_before, *self.arguments.print_ir_after):
            if wanted != EVERY and wanted not in PASSES:
                raise error(f"unknown pass '{wanted}' (there are {', '.join(sorted(PASSES))})")

    # --- IR

    def _print_steps(self, steps: Sequence[Step]) -> None:
        last: dict[tuple[int, str], str] = {}
        for step in (s for s in steps if s.kind == "mlir" and s.name != KERNEL_STEP):
            key = step.graph, step.scope
            text, before = _LOCATION.sub("", step.text), last.get(key)
            arguments = self.arguments
            if before is not None and (step.name in arguments.print_ir_before or EVERY in arguments.print_ir_before):
                _to_stderr("before", step, before)
            named = step.name in arguments.print_ir_after or EVERY in arguments.print_ir_after
            changed = arguments.print_ir_after_change and before is not None and before != text
            if named or arguments.print_ir_after_all or changed:
                _to_stderr("after", step, text)
            last[key] = text

    def _emit(self, steps: Sequence[Step], compiled: Mapping[str, Offline], backend: Backend) -> None:
        stage, output = self.arguments.emit, self.arguments.output
        pieces = stage_texts(steps, stage) if stage in STAGES else [k.emit(stage) for k in compiled.values()]
        if not pieces:
            notes = [(UNKNOWN, note) for graph in backend.report.graphs for note in graph.notes]
            raise error(
                f"there is nothing to emit: no attention was found in '{self.arguments.subject}'", UNKNOWN, *notes
            )
        separator = "// -----\n" if stage in (*GENERAL, "mlir") else "\n"
        whole = b"".join(p for p in pieces if isinstance(p, bytes)) or separator.join(
            p for p in pieces if isinstance(p, str)
        )
        if isinstance(whole, bytes) and len(pieces) > 1:
            raise error(f"{len(pieces)} kernels do not go into one {stage} file; emit ptx, or compile one attention")
        if not output:
            sys.stdout.write(str(whole))
        else:
            write_whole(Path(output), whole)

    # --- kernels

    def _offline(self, backend: Backend, device: str) -> Mapping[str, Offline]:
        from .without_running import compile_without_running, distinct_kernels

        kernels = distinct_kernels(backend)
        if not kernels and self.arguments.emit is None:
            print(backend.report)
        for name in kernels:
            print(f"compiling {name} for {device}", file=sys.stderr)
        return {
            name + purpose: compiled
            for name, kernel in kernels.items()
            for purpose, compiled in compile_without_running(kernel, device).items()
        }

    def _check(self, result: Any, eager: Any) -> int:
        from .agreement import compare

        agreement = compare(result, eager())
        print(agreement)
        return 0 if agreement.holds else 1


def stage_texts(steps: Sequence[Step], stage: str) -> list[str]:
    """The texts of one stage: whole graphs for aten and attn, one for each distinct kernel otherwise."""
    if stage in ENDINGS:
        found = [s.text for s in steps if s.name == KERNEL_STEP and s.kind == ENDINGS[stage]]
    elif stage == "tile":
        found = [s.text for s in steps if s.name == "dce" and s.scope != "main"]
    else:
        # A graph is raised again where an attention turned out to have no kernel: the last time counts.
        end = "aten" if stage == "aten" else "dce"
        found = list({s.graph: s.text for s in steps if s.name == end and s.scope == "main"}.values())
    return list(dict.fromkeys(_LOCATION.sub("", text) for text in found))


def _to_stderr(moment: str, step: Step, text: str) -> None:
    scope = "" if step.scope == "main" else f" of {step.scope}"
    print(f"// ----- IR {moment} {step.name}{scope} -----", file=sys.stderr)
    sys.stderr.write(text)
