"""`attir compile` and `attir explain` on targets that work: what goes to which stream, and to files."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from unit.cli.command_line import Attir, qkv

from attir.compiler import compile_command, native_offline
from attir.compiler.compile_command import default_target, stage_texts
from attir.compiler.dump import Step
from attir.compiler.native_support import native_problem
from attir.ir.parser import parse_module
from attir.ir.verifier import verify

SPLIT = "// -----\n"


@pytest.mark.parametrize("stage", ["aten", "attn", "tile"])
def test_stdout_is_ir_and_nothing_else(stage: str, attir: Attir, subjects: str) -> None:
    outcome = attir("compile", f"{subjects}:twice", *qkv(), "--emit", stage)
    assert outcome.code == 0
    assert outcome.err.splitlines()[0] == f"capturing {subjects}:twice"
    modules = [parse_module(text) for text in outcome.out.split(SPLIT)]
    assert len(modules) == (2 if stage == "tile" else 1)
    names = [op.name for module in modules for op in module.walk()]
    for module in modules:
        verify(module)
    expected = {"aten": ("aten.softmax.int", 1), "attn": ("attn.attention", 2), "tile": ("tile.kernel", 2)}[stage]
    assert names.count(expected[0]) == expected[1]


def test_the_kernel_is_python_with_the_users_line(attir: Attir, subjects: str) -> None:
    outcome = attir("compile", f"{subjects}:causal", *qkv("bf16[1,2,s,16]"), "--emit", "triton")
    compile(outcome.out, "kernel.py", "exec")
    assert "@triton.jit" in outcome.out and f"{subjects}:7" in outcome.out.splitlines()[0]


def test_output_goes_to_a_file(attir: Attir, subjects: str, tmp_path: Path) -> None:
    command = ("compile", f"{subjects}:causal", *qkv(), "--emit", "attn")
    shown = attir(*command)
    outcome = attir(*command, "--output", str(tmp_path / "new" / "x.mlir"))
    assert (outcome.code, outcome.out) == (0, "")
    assert (tmp_path / "new" / "x.mlir").read_text() == shown.out


def test_without_more_it_prints_the_report(attir: Attir, subjects: str) -> None:
    outcome = attir("compile", f"{subjects}:twice", *qkv())
    assert outcome.code == 0
    assert outcome.out.startswith("graph 0: 2 of 2 attention sites fused (first capture)\n")


def test_a_target_without_attention_is_no_error(attir: Attir, subjects: str) -> None:
    outcome = attir("compile", f"{subjects}:plus_one", "--input", "f32[4]")
    assert (outcome.code, outcome.out) == (0, "graph 0: 0 of 0 attention sites fused (first capture)\n")


@pytest.mark.parametrize(
    ("function", "inputs"), [("twice", qkv()), ("causal", qkv("f16[2,2,s,16]")), ("model", ["--input=f32[1,2,s,16]"])]
)
def test_check_compares_with_eager(function: str, inputs: list[str], attir: Attir, subjects: str) -> None:
    outcome = attir("compile", f"{subjects}:{function}", *inputs, "--check")
    assert outcome.code == 0
    assert re.search(r"^check: agrees with eager PyTorch \(1 tensor, largest difference ", outcome.out, re.MULTILINE)


def test_a_transformers_model_is_built_and_checked(attir: Attir) -> None:
    pytest.importorskip("transformers")
    outcome = attir("compile", "hf:gpt2", "--config", "n_layer=1", "--check")
    assert outcome.code == 0
    assert "1 of 1 attention sites fused" in outcome.out and "check: agrees" in outcome.out


def printed(text: str, moment: str) -> list[str]:
    return re.findall(rf"^// ----- IR {moment} (.*) -----$", text, re.MULTILINE)


def test_ir_is_printed_on_stderr(attir: Attir, subjects: str) -> None:
    command = ("compile", f"{subjects}:causal", *qkv(), "--emit", "attn")
    every = attir(*command, "--print-ir-after-all")
    assert printed(every.err, "after") == [
        "aten", "canonicalize", "raise-flex", "raise-attention", "dce", "absorb-rows", "dce", "canonicalize",
        "choose-layout",
        *(f"{step} of attention_0_0" for step in (
            "outline", "analyze-mask", "plan", "canonicalize", "cse", "lower-attention", "swap-operands",
            "make-persistent", "canonicalize", "cse", "dce",
        )),
    ]  # fmt: skip
    assert "IR after" not in every.out
    changed = printed(attir(*command, "--print-ir-after-change").err, "after")
    assert "raise-attention" in changed and len(changed) < len(printed(every.err, "after"))
    assert printed(attir(*command, "--print-ir-after").err, "after") == printed(every.err, "after")


def test_ir_before_a_pass_is_what_the_one_before_left(attir: Attir, subjects: str) -> None:
    command = ("compile", f"{subjects}:causal", *qkv(), "--emit", "attn")
    before = attir(*command, "--print-ir-before=raise-attention").err
    after = attir(*command, "--print-ir-after=canonicalize").err
    assert printed(before, "before") == ["raise-attention"]
    text = before.split("-----\n")[1]
    assert text.strip() and text.strip() in after
    assert all(p.startswith(("canonicalize", "canonicalize of")) for p in printed(after, "after"))


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
def test_ptx_without_a_gpu(target: str, attir: Attir, subjects: str) -> None:
    command = ("compile", f"{subjects}:causal", *qkv("f16[1,2,s,64]"), "--target", target, "--emit", "ptx")
    outcome = attir(*command)
    assert outcome.code == 0
    assert re.search(rf"^\.target {target}a?$", outcome.out, re.MULTILINE) and ".visible .entry" in outcome.out
    assert re.search(
        rf"^attention_0_0 for {target}: \d+ registers, no spills, \d+ bytes of shared memory, tensor cores: \d+ ",
        outcome.err,
        re.MULTILINE,
    )


@pytest.mark.slow
def test_a_target_alone_prints_what_its_compiler_reports(attir: Attir, subjects: str, tmp_path: Path) -> None:
    command = ("compile", f"{subjects}:causal", *qkv("f16[1,2,s,64]"), "--target", "sm_80")
    outcome = attir(*command)
    assert outcome.code == 0
    assert outcome.out.startswith("attention_0_0 for sm_80: ") and outcome.out.count("\n") == 1
    where = tmp_path / "kernel.cubin"
    binary = attir(*command, "--emit", "cubin", "--output", str(where))
    assert (binary.code, binary.out) == (0, "")
    assert where.read_bytes().startswith(b"\x7fELF")


@pytest.mark.slow
def test_a_stage_the_target_does_not_have(attir: Attir, subjects: str) -> None:
    said = attir("compile", f"{subjects}:causal", *qkv("f16[1,2,s,64]"), "--target", "gfx942", "--emit", "ptx").error
    assert said.startswith("error: gfx942 has no stage 'ptx'; expected ")


# --- native kernels

needs_native = pytest.mark.skipif(bool(native_problem()), reason="native kernels do not run here")


@pytest.mark.parametrize("target", ["avx512", "avx2"])
def test_mlir_is_written_for_cpus_that_are_not_here(target: str, attir: Attir, subjects: str) -> None:
    ir = pytest.importorskip("torch_mlir.ir")
    outcome = attir("compile", f"{subjects}:twice", *qkv(), "--target", target, "--emit", "mlir")
    assert outcome.code == 0
    texts = outcome.out.split(SPLIT)
    assert len(texts) == 2 and f"{subjects}:7" in texts[0]
    lanes = {"avx512": "vector<16xf32>", "avx2": "vector<8xf32>"}[target]
    for text in texts:
        assert lanes in text
        with ir.Context():
            assert ir.Module.parse(text).operation.verify()


@needs_native
def test_assembly_is_that_of_the_kernel(attir: Attir, subjects: str) -> None:
    outcome = attir("compile", f"{subjects}:causal", *qkv(), "--emit", "asm")
    assert outcome.code == 0
    assert "attention_0_0:" in outcome.out.splitlines() and re.search(r"^\s+vfmadd\w+ ", outcome.out, re.MULTILINE)
    alone = attir("compile", f"{subjects}:causal", *qkv(), "--target", default_target())
    pattern = r"attention_0_0 for avx\w+: \d+ lines of MLIR, \d+ instructions, \d+ of them multiply-adds\n"
    assert re.fullmatch(pattern, alone.out)


def test_assembly_for_another_cpu_is_refused_in_words(
    attir: Attir, subjects: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_offline, "host_target", lambda: "avx512")
    command = ("compile", f"{subjects}:causal", *qkv(), "--target", "avx2")
    reason = "LLVM in torch-mlir compiles for the CPU it runs on, which is avx512"
    said = attir(*command, "--emit", "asm").error
    assert said == f"error: there is no asm for avx2 here: {reason}; --emit mlir needs no such CPU"
    assert attir(*command).out.endswith(f" lines of MLIR, not compiled: {reason}\n")


def test_what_is_shown_without_a_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_command, "host_target", lambda: "avx2")
    monkeypatch.setattr(compile_command, "native_problem", lambda: "")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert [default_target(stage) for stage in (None, "tile", "mlir", "asm")] == ["avx2"] * 4
    assert [default_target(stage) for stage in ("triton", "ptx")] == ["sm_90"] * 2
    monkeypatch.setattr(compile_command, "native_problem", lambda: "torch-mlir is missing")
    assert [default_target(stage) for stage in (None, "tile", "mlir")] == ["sm_90", "sm_90", "avx2"]
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert default_target() == "sm_90"


@needs_native
def test_the_report_of_a_call_names_the_kernel_and_why(attir: Attir, subjects: str) -> None:
    shown = attir("compile", f"{subjects}:causal", *qkv(), "--check").out
    assert "      backend   native: machine code, because tensors are on the cpu\n" in shown
    assert re.search(r"^ +variant   prefill, any rows: \d+ queries x group 1 \(", shown, re.MULTILINE)
    planned = attir("explain", f"{subjects}:causal", *qkv(), "--target", "avx2").out
    assert "      backend   native, compiled for avx2 and not run\n" in planned
    assert "      variant   prefill, any rows: 48 queries x group 1 (not run)\n" in planned


def test_explain_prints_the_report(attir: Attir, subjects: str) -> None:
    outcome = attir("explain", f"{subjects}:causal", *qkv("f16[1,2,s,64]"), "--target", "sm_80")
    assert outcome.code == 0
    assert "attention_0_0  fused" in outcome.out and "target=sm_80" in outcome.out
    machine = attir("explain", f"{subjects}:causal", *qkv("f16[1,2,s,64]"), "--json")
    site = json.loads(machine.out)["graphs"][0]["sites"][0]
    assert site["status"] == "fused" and site["plan"]["target"] == default_target()
    assert site["location"] == f"{subjects}:7"


def test_explain_exits_with_1_where_an_attention_is_refused(attir: Attir, subjects: str) -> None:
    outcome = attir("explain", f"{subjects}:causal", *qkv("f64[1,2,8,16]"))
    assert outcome.code == 1
    assert "refused" in outcome.out and "must all be f16, bf16 or f32" in outcome.out


def test_a_graph_that_was_raised_twice_is_emitted_once() -> None:
    steps = [Step(0, "main", "aten", "mlir", text) for text in ("first\n", "second\n")]
    assert stage_texts([*steps, Step(1, "main", "aten", "mlir", "other\n")], "aten") == ["second\n", "other\n"]
