"""Pipelines of passes: their text, how they run, what they report, and what is left after a crash.

    canonicalize,plan{target=sm_80},dce

is three passes; options stand in braces, separated by spaces, and are the fields of the pass.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast, get_args, get_origin, get_type_hints

from ..ir.core import Operation
from ..ir.diagnostics import CompileError, Diagnostic, error
from ..ir.location import UNKNOWN
from ..ir.printer import print_operation
from ..ir.verifier import verify
from .manager import Pass, PassContext
from .registry import PASSES

Moment = Literal["before", "after"]
Observer: TypeAlias = Callable[[Moment, Pass, Operation], None]
"""Called around every pass, with the module as it is then."""

_OPTION = re.compile(r'\s*([\w-]+)=("[^"]*"|[^\s"]*)')
_TRUTH: Mapping[str, bool] = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True)
class PassPipeline:
    """Passes in the order they run; `str()` is the text that parses to an equal pipeline."""

    passes: tuple[Pass, ...]

    def __str__(self) -> str:
        return ",".join(map(pass_text, self.passes))

    def run(self, module: Operation, ctx: PassContext, settings: RunSettings | None = None) -> list[tuple[str, float]]:
        """Change `module` in place; return the seconds that each pass took.

        CompileErrors of a pass go through. Any other exception, and IR that does not verify after
        a pass where that is asked for, becomes a CompileError that names the pass and a file which
        reproduces the failure.
        """
        settings = settings or RunSettings()
        return [(step.name, self._run_step(i, module, ctx, settings)) for i, step in enumerate(self.passes)]

    def _run_step(self, position: int, module: Operation, ctx: PassContext, settings: RunSettings) -> float:
        step, before = self.passes[position], module.clone()
        settings.observe("before", step, module)
        start = time.perf_counter()
        try:
            step.run(module, ctx)
        except CompileError:
            raise
        except Exception as problem:  # whatever a faulty pass raises is ours to report
            cause = f"{type(problem).__name__}: {problem}".rstrip(": ")
            raise self._internal_error(position, cause, before, settings) from problem
        seconds = time.perf_counter() - start
        if settings.verify_each:
            try:
                verify(module, allow_unregistered=settings.allow_unregistered)
            except CompileError as problem:
                raise self._internal_error(position, "its result does not verify", before, settings, problem) from None
        settings.observe("after", step, module)
        return seconds

    def _internal_error(
        self,
        position: int,
        cause: str,
        before: Operation,
        settings: RunSettings,
        verification: CompileError | None = None,
    ) -> CompileError:
        rest = PassPipeline(self.passes[position:])
        verify_each = " --verify-each" if verification is not None else ""
        path = write_reproducer(before, f'--passes="{rest}"{verify_each}', settings.reproducers)
        message = f"pass '{self.passes[position].name}' failed, which is an error of attir: {cause}; see {path}"
        found = verification.diagnostics if verification is not None else ()
        return CompileError(Diagnostic(UNKNOWN, message), *found)


def _ignore(_: Moment, __: Pass, ___: Operation) -> None:
    """The observer that looks away."""


@dataclass(frozen=True)
class RunSettings:
    """How a pipeline runs: what is checked, who watches, where reproducers go (a directory)."""

    verify_each: bool = False
    allow_unregistered: bool = False
    observe: Observer = _ignore
    reproducers: Path = field(default_factory=lambda: Path(tempfile.gettempdir()))


def write_reproducer(module: Operation, options: str, directory: Path) -> Path:
    """Write IR that fails under `attir opt <file> <options>`, as a check file says it; its path."""
    text = f"// RUN: attir opt %s {options}\n{print_operation(module)}"
    path = directory / f"attir-reproducer-{hashlib.sha256(text.encode()).hexdigest()[:12]}.mlir"
    partial = path.with_suffix(".partial")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as problem:
        raise error(f"a pass failed, and its reproducer {path} cannot be written: {problem.strerror}") from problem
    return path


# --- text ----------------------------------------------------------------------------------


def parse_pipeline(text: str, passes: Mapping[str, type[Pass]] = PASSES) -> PassPipeline:
    """The pipeline that `text` describes; CompileError for unknown passes, options and bad values."""
    return PassPipeline(tuple(_parse_pass(part, passes) for part in _split(text)))


def pass_text(step: Pass) -> str:
    """A pass with the options that differ from their defaults."""
    changed = [f"{f.name}={_value_text(getattr(step, f.name))}" for f in fields(step) if _changed(step, f)]
    return f"{step.name}{{{' '.join(changed)}}}" if changed else step.name


def option_types(kind: type[Pass]) -> dict[str, Any]:
    """The options of a pass, each with its type."""
    hints = get_type_hints(kind)
    return {f.name: hints[f.name] for f in fields(kind)}


def type_name(kind: Any) -> str:
    """How messages call the type of an option."""
    return f"list of {type_name(get_args(kind)[0])}" if get_origin(kind) is tuple else kind.__name__


def _changed(step: Pass, option: Field[Any]) -> bool:
    default = option.default_factory() if option.default_factory is not MISSING else option.default
    return getattr(step, option.name) != default


def _value_text(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(_value_text, cast("tuple[object, ...]", value)))
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return f'"{text}"' if re.search(r"[\s{},]", text) or not text else text


def _split(text: str) -> Iterator[str]:
    """The passes of a pipeline: the parts between commas outside of braces."""
    start, inside = 0, False
    for found in re.finditer(r'"[^"]*"|[{},]', text):
        if found[0] in "{}":
            if inside == (found[0] == "{"):
                raise error(f"braces do not match in pipeline '{text}'")
            inside = found[0] == "{"
        elif found[0] == "," and not inside:
            yield text[start : found.start()]
            start = found.end()
    if inside:
        raise error(f"a brace is not closed in pipeline '{text}'")
    if text[start:].strip() or start:
        yield text[start:]


def _parse_pass(text: str, passes: Mapping[str, type[Pass]]) -> Pass:
    name, brace, rest = text.strip().partition("{")
    name = name.strip()
    if name not in passes:
        close = get_close_matches(name, passes, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        raise error(f"unknown pass '{name}'{hint} (there are {', '.join(sorted(passes))})")
    if brace and not rest.endswith("}"):
        raise error(f"'{rest.rpartition('}')[2]}' after the options of pass '{name}' does not belong there")
    return _with_options(passes[name], rest.removesuffix("}"))


def _with_options(kind: type[Pass], text: str) -> Pass:
    types, values, position = option_types(kind), dict[str, Any](), 0
    while found := _OPTION.match(text, position):
        option, value = found[1].replace("-", "_"), found[2].strip('"')
        if option not in types:
            known = ", ".join(f"{n}: {type_name(t)}" for n, t in types.items())
            raise error(
                f"pass '{kind.name}' has no option '{option}' ({f'it has {known}' if known else 'it has none'})"
            )
        if option in values:
            raise error(f"option '{option}' of pass '{kind.name}' is given twice")
        values[option] = _value(kind, option, types[option], value)
        position = found.end()
    if text[position:].strip():
        raise error(f"'{text[position:].strip()}' is no option of pass '{kind.name}'; options look like name=value")
    missing = [f.name for f in fields(kind) if _required(f) and f.name not in values]
    if missing:
        raise error(f"pass '{kind.name}' needs option '{missing[0]}' ({type_name(types[missing[0]])})")
    return kind(**values)


def _required(option: Field[Any]) -> bool:
    return option.default is MISSING and option.default_factory is MISSING


def _value(kind: type[Pass], option: str, type_: Any, text: str) -> Any:
    if get_origin(type_) is tuple:
        return tuple(_value(kind, option, get_args(type_)[0], item) for item in text.split(",") if item)
    try:
        return _TRUTH[text.lower()] if type_ is bool else type_(text)
    except (KeyError, ValueError):
        raise error(f"option '{option}' of pass '{kind.name}' must be a {type_name(type_)}, but is '{text}'") from None
