"""Pipelines: their text, their observers, and what a failing pass leaves behind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from attir.compiler.opt import run_opt
from attir.ir.builder import Builder
from attir.ir.core import Block, Operation, Region
from attir.ir.diagnostics import CompileError
from attir.ir.dialects.arith import AddFOp
from attir.ir.parser import parse_module
from attir.ir.printer import print_operation
from attir.passes.manager import Pass, PassContext
from attir.passes.pattern import Rewriter, apply_greedily, pattern
from attir.passes.pipeline import PassPipeline, RunSettings, parse_pipeline

SUM = """
"func.func"() <{function_type = (f32) -> f32, sym_name = "sum"}> ({
^bb0(%x: f32):
  %0 = "arith.addf"(%x, %x) : (f32, f32) -> f32
  "func.return"(%0) : (f32) -> ()
}) : () -> ()
"""


@dataclass(frozen=True)
class Faulty(Pass):
    """Fails on purpose."""

    name: ClassVar[str] = "faulty"
    times: int = 1

    def run(self, module: Operation, ctx: PassContext) -> None:
        raise ZeroDivisionError(f"{self.times}")


@dataclass(frozen=True)
class Breaking(Pass):
    """Leaves IR that does not verify."""

    name: ClassVar[str] = "breaking"

    def run(self, module: Operation, ctx: PassContext) -> None:
        for op in module.walk():
            if op.name == "arith.addf":
                op.set_operands(op.operands[:1])


def test_text_of_a_pipeline_reads_back() -> None:
    text = "canonicalize,plan{target=sm_80},dce"
    assert str(parse_pipeline(text)) == text
    assert parse_pipeline(str(parse_pipeline(text))) == parse_pipeline(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("canonicalise", "unknown pass 'canonicalise'; did you mean 'canonicalize'"),
        ("plan{speed=1}", "pass 'plan' has no option 'speed'"),
        ("plan{target=sm_80", "a brace is not closed"),
        ("plan}", "braces do not match"),
        ("plan{target=a target=b}", "given twice"),
        ("cse,,dce", "unknown pass ''"),
    ],
)
def test_mistakes_in_a_pipeline_are_named(text: str, message: str) -> None:
    with pytest.raises(CompileError, match=message):
        parse_pipeline(text)


def test_an_internal_error_leaves_a_reproducer(tmp_path: Path) -> None:
    module = parse_module(SUM)
    pipeline = PassPipeline((Faulty(times=3), *parse_pipeline("dce").passes))
    with pytest.raises(CompileError, match="pass 'faulty' failed, which is an error of attir: ZeroDivisionError: 3"):
        pipeline.run(module, PassContext(), RunSettings(reproducers=tmp_path))
    (file,) = tmp_path.iterdir()
    first, _, rest = file.read_text().partition("\n")
    assert first == '// RUN: attir opt %s --passes="faulty{times=3},dce"'
    assert print_operation(parse_module(rest)) == print_operation(parse_module(SUM))


def test_verify_each_names_the_pass_that_broke_the_ir(tmp_path: Path) -> None:
    settings = RunSettings(verify_each=True, reproducers=tmp_path)
    with pytest.raises(CompileError, match=r"pass 'breaking' failed.*does not verify(.|\n)*must have 2 operands"):
        PassPipeline((Breaking(),)).run(parse_module(SUM), PassContext(), settings)


def test_observers_see_every_pass_before_and_after() -> None:
    seen: list[tuple[str, str]] = []
    settings = RunSettings(observe=lambda moment, step, _module: seen.append((moment, step.name)))
    parse_pipeline("cse,dce").run(parse_module(SUM), PassContext(), settings)
    assert seen == [("before", "cse"), ("after", "cse"), ("before", "dce"), ("after", "dce")]


@pattern(AddFOp)
def swap_operands(op: AddFOp, rw: Rewriter) -> bool:
    """x + y  →  y + x, for ever"""
    with rw.modify(op):
        op.operation.set_operands(list(reversed(op.operation.operands)))
    return True


@pattern(AddFOp)
def never(op: AddFOp, rw: Rewriter) -> bool:
    """Nothing."""
    return rw.no_match("never matches")


def test_patterns_that_undo_each_other_are_an_error_in_words() -> None:
    with pytest.raises(CompileError, match=r"did not come to rest after 50 rewrites; the last was 'swap_operands'"):
        apply_greedily(parse_module(SUM), [swap_operands], PassContext(), limit=50)


def test_a_miss_carries_its_reason_and_place() -> None:
    ctx = PassContext()
    assert apply_greedily(parse_module(SUM, "sum.mlir"), [never], ctx) == 0
    (miss,) = ctx.misses
    assert (miss.pattern, miss.reason, miss.location.file, miss.location.line) == (
        "never",
        "never matches",
        "sum.mlir",
        4,
    )


def test_a_long_chain_is_rewritten_in_linear_time() -> None:
    """Twenty thousand operations: a quadratic worklist would take minutes."""
    block = Block()
    builder = Builder(block)
    from attir.ir.attributes import f32

    value = builder.constant(1.0, f32)
    for _ in range(20_000):
        value = builder.binary(AddFOp, value, value)
    module = Operation.create("builtin.module", regions=[Region([block])])
    assert apply_greedily(module, [never], PassContext()) == 0


def test_opt_reports_a_file_that_is_not_there() -> None:
    import io

    stdout, stderr = io.StringIO(), io.StringIO()
    assert run_opt(["nowhere.mlir"], stdout, stderr) == 1
    assert "nowhere.mlir" in stderr.getvalue() and not stdout.getvalue()
