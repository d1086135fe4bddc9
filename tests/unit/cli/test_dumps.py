"""Dumps are inputs: every file is read by `attir opt` and by MLIR, and continued to the same kernel."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from unit.cli.command_line import Attir, qkv

from attir.codegen.mlir import emit_module
from attir.codegen.triton import emit_kernel
from attir.compiler.opt import run_opt
from attir.compiler.pipelines import LOWER, schedule
from attir.ir.dialects.tile import KernelOp
from attir.ir.parser import parse_module

ROOT = Path(__file__).resolve().parents[3]
FILES = {
    "causal": qkv("bf16[2,2,s,16]"),
    "twice": qkv(),
    "alibi_window": [*qkv("f16[1,2,s,72]"), "--input=slopes=f16[2]"],
}


TARGETS = ("sm_90", "avx512")


@dataclass(frozen=True)
class Dumped:
    """A directory with the dump of one function, compiled for `target`."""

    folder: Path
    target: str

    def glob(self, pattern: str) -> list[Path]:
        return sorted(self.folder.glob(pattern))

    @property
    def ir(self) -> list[Path]:
        """The files of our own IR."""
        return [file for file in self.glob("*.mlir") if ".kernel." not in file.name]


@pytest.fixture(params=[(name, target) for name in FILES for target in TARGETS], ids="-".join)
def dump(request: pytest.FixtureRequest, attir: Attir, subjects: str, tmp_path: Path) -> Dumped:
    name, device = request.param
    target = f"{ROOT}/examples/alibi_window.py:attention" if name == "alibi_window" else f"{subjects}:{name}"
    outcome = attir(
        "compile", target, *FILES[name], "--target", device, "--emit", "tile", "--dump", str(tmp_path / "dump")
    )
    assert outcome.code == 0
    assert f"every step lies in {tmp_path}/dump" in outcome.err
    return Dumped(tmp_path / "dump" / "graph-0", device)


def opt(*arguments: str) -> str:
    out, err = io.StringIO(), io.StringIO()
    assert run_opt(arguments, out, err) == 0, err.getvalue()
    return out.getvalue()


def without_locations(text: str) -> str:
    return re.sub(r' loc\("[^"]*":\d+:\d+\)', "", text)


def test_every_file_is_read_and_printed_the_same(dump: Dumped) -> None:
    assert len(dump.ir) >= 13
    for file in dump.ir:
        assert opt(str(file)) == without_locations(file.read_text()), file.name


def test_every_file_is_accepted_by_mlir(dump: Dumped) -> None:
    ir = pytest.importorskip("torch_mlir.ir")
    for file in dump.glob("*.mlir"):
        with ir.Context() as context:
            context.allow_unregistered_dialects = True
            assert ir.Module.parse(file.read_text()).operation.verify(), file.name


def remaining_passes(target: str, done: int, sizes: str) -> str:
    """What is left of the way of a site after its first `done` passes, as text; `sizes` are what was planned for."""
    plan = f"plan{{target={target} sizes={sizes}}}"
    names = [plan if step.name == "plan" else step.name for step in (*schedule(target), *LOWER)]
    return ",".join(names[done:])


def planned_sizes(files: Sequence[Path]) -> str:
    """What the pass that plans was told, as it wrote it down."""
    found = re.search(r'decision = \{.*?sizes = "(\w+)"', "".join(file.read_text() for file in files))
    assert found is not None
    return found[1]


def kernel_source(text: str) -> str:
    kernels = [op for op in parse_module(text).walk() if KernelOp.match(op)]
    return emit_module(kernels).text if KernelOp(kernels[0]).lanes else emit_kernel(kernels[0]).source


def steps_of_sites(dump: Dumped) -> Sequence[Sequence[Path]]:
    """The IR files of each site, in order."""
    sites = sorted({f.name.split("-", 1)[1].split(".")[0] for f in dump.glob("*.kernel.*")})
    return [[file for file in dump.ir if f"-{site}." in file.name] for site in sites]


def test_the_way_can_be_continued_from_every_file_to_the_same_kernel(dump: Dumped) -> None:
    for files in steps_of_sites(dump):
        end = without_locations(files[-1].read_text())
        kernel = kernel_source(files[-1].read_text())
        for done, file in enumerate(files):
            passes = f"--passes={remaining_passes(dump.target, done, planned_sizes(files))}"
            assert opt(str(file), passes) == end, file.name
            assert kernel_source(opt(str(file), passes, "--print-locations")) == kernel, file.name


def test_the_dumped_kernel_does_what_the_last_ir_says(dump: Dumped) -> None:
    """Names in printed IR are unique and those of kernels are not, so lines are compared without names."""
    for files in steps_of_sites(dump):
        site = files[0].name.split("-", 1)[1].split(".")[0]
        (dumped,) = dump.glob(f"*-{site}.kernel.*")
        assert without_names(kernel_source(files[-1].read_text())) == without_names(dumped.read_text())


def without_names(source: str) -> str:
    """What a kernel calls and computes, in order, with every name of a value left out."""
    source = re.sub(r"[%@]\w+(?:[#:]\d+)?|//.*", "", source.split("def launch")[0])
    calls = r"(?:tl|arith|vector|llvm|scf|math)\.\w+"
    tokens = re.findall(rf"{calls}|\d+\.\d+|\b\d+\b|[-+*/%<>=&|]+|\bfor\b", source)
    return " ".join(tokens)


def test_the_way_of_the_graph_can_be_repeated(dump: Dumped) -> None:
    files = [f for f in dump.ir if "attention_0" not in f.name]
    raised = opt(str(files[0]), "--passes=canonicalize,raise-attention,dce")
    assert raised == without_locations(files[-1].read_text())
