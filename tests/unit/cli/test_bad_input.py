"""Each wrong input of `attir compile` gives one message that says where and what, and writes nothing."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from unit.cli.command_line import Attir, qkv

BROKEN_FILES = {
    "leaves": ("raise SystemExit(3)\n", ":1: error: '{}' does not import: SystemExit: 3"),
    "syntax": ("x = 1\ndef f(:\n", ":2: error: '{}' does not import: SyntaxError: invalid syntax"),
    "raises": ("raise ValueError('a\\nb')\n", ":1: error: '{}' does not import: ValueError: a"),
    "imports": ("import no_such_module\n", ":1: error: '{}' does not import: ModuleNotFoundError: No module named"),
}


@pytest.mark.parametrize("name", BROKEN_FILES)
def test_a_file_that_does_not_import_is_blamed_at_its_line(name: str, attir: Attir, tmp_path: Path) -> None:
    text, message = BROKEN_FILES[name]
    path = tmp_path / f"broken_{name}.py"
    path.write_text(text)
    assert attir("compile", f"{path}:f", *qkv()).error.startswith(f"{path}{message.format(path)}")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("SUBJECTS:cauzal", "error: '{}' has no 'cauzal'; did you mean 'causal'?"),
        ("SUBJECTS:number", "error: target '{}:number' must be a function or a module, but is int"),
        ("SUBJECTS:Model", "error: target '{}:Model' is a class; name a function, or an instance of it"),
        ("no_such_file.py:f", "error: file 'no_such_file.py' does not exist"),
        ("no_such_package.x:f", "error: 'no_such_package.x' does not import: ModuleNotFoundError"),
        ("SUBJECTS", "error: cannot read target"),
        ("hf:lama", "error: transformers has no model type 'lama'; did you mean 'llama'?"),
    ],
)
def test_a_target_that_is_not_there(target: str, message: str, attir: Attir, subjects: str) -> None:
    # The path may hold a colon only before the last one.
    said = attir("compile", target.replace("SUBJECTS", subjects), *qkv()).error
    assert said.startswith(message.format(subjects))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("hiden_size=64", "error: a llama config has no 'hiden_size'; did you mean 'hidden_size'?"),
        ("hidden_size=63", "error: transformers cannot build a llama model of hidden_size=63,"),
        ("hidden_size", "error: cannot read --config entry 'hidden_size': expected name=value"),
    ],
)
def test_a_config_that_no_model_has(config: str, message: str, attir: Attir) -> None:
    pytest.importorskip("transformers")
    assert attir("compile", "hf:llama", "--config", config).error.startswith(message)


def test_a_model_that_takes_something_else_than_tokens(attir: Attir) -> None:
    pytest.importorskip("transformers")
    said = attir("explain", "hf:t5").error
    assert said.startswith(
        "error: the target fails in eager PyTorch, too, on input_ids=i64[2,32]: ValueError: You must"
    )


def test_a_config_is_for_transformers_models(attir: Attir, subjects: str) -> None:
    assert "--config sets up a transformers model" in attir("compile", f"{subjects}:causal", "--config", "a=1").error


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q=f32[1,2", "cannot read input 'q=f32[1,2': expected NAME=DTYPE[SIZE,...], such as q=f16[2,8,s,64]"),
        ("q=f31[1]", "cannot read input 'q=f31[1]': unknown dtype 'f31'; expected one of f16, bf16, f32, f64, i1"),
        ("q=f32[-2]", "cannot read input 'q=f32[-2]': size '-2' is neither a number nor a name of a dynamic size"),
        ("q=f32[9999999,9999999,9999999]", "cannot make input 'q=f32[9999999,9999999,9999999]': RuntimeError: "),
        (f"q=f32[{9**40}]", "cannot make input"),
    ],
)
def test_an_input_that_cannot_be_made(text: str, message: str, attir: Attir, subjects: str) -> None:
    assert f"error: {message}" in attir("compile", f"{subjects}:causal", "--input", text).error


def test_an_input_given_twice(attir: Attir, subjects: str) -> None:
    assert "input 'q' is given twice" in attir("compile", f"{subjects}:causal", *qkv(), *qkv()).error


def test_a_target_without_inputs(attir: Attir, subjects: str) -> None:
    assert "needs inputs: --input NAME=DTYPE[SIZE,...]" in attir("compile", f"{subjects}:causal").error


@pytest.mark.parametrize(
    ("function", "inputs", "message"),
    [
        ("by_hand", qkv("f32[1,2,8,16]", k="f32[1,2,8,12]"), "k=f32[1,2,8,12], v=f32[1,2,8,16]: RuntimeError: "),
        ("by_hand", qkv("f32[2,2,8,16]", k="f32[3,2,8,16]"), "k=f32[3,2,8,16], v=f32[2,2,8,16]: RuntimeError: "),
        ("causal", qkv("f32[1,2,8,16]", v="f16[1,2,8,16]"), "same dtype"),
        ("by_hand", qkv("f32[16]"), "IndexError: Dimension out of range"),
        ("by_hand", qkv("i64[1,2,8,16]"), "RuntimeError: "),
        ("leaves", qkv("f32[3]"), "SystemExit: 7"),
        ("fails", qkv("f32[3]"), "RuntimeError: the first line"),
    ],
)
def test_what_fails_without_attir_fails_in_its_own_words(
    function: str, inputs: list[str], message: str, attir: Attir, subjects: str
) -> None:
    said = attir("compile", f"{subjects}:{function}", *inputs).error
    assert re.match(rf"{re.escape(subjects)}:\d+: error: the target fails in eager PyTorch, too, on q=", said)
    assert message in said


@pytest.mark.parametrize("options", [(), ("--emit", "tile"), ("--check",), ("--strict",)])
def test_a_dtype_without_kernels_is_refused_at_its_line(
    options: tuple[str, ...], attir: Attir, subjects: str, tmp_path: Path
) -> None:
    said = attir("compile", f"{subjects}:causal", *qkv("f64[1,2,8,16]"), *options).error
    assert re.match(rf"{re.escape(subjects)}:7: error: 'aten.scaled_dot_product_attention' was not fused: ", said)
    assert "must all be f16, bf16 or f32, but are q f64, k f64, v f64" in said


def test_nothing_to_emit(attir: Attir, subjects: str) -> None:
    said = attir("compile", f"{subjects}:plus_one", "--input", "f32[4]", "--emit", "tile").error
    assert said == f"error: there is nothing to emit: no attention was found in '{subjects}:plus_one'"


def test_an_unknown_pass(attir: Attir, subjects: str) -> None:
    said = attir("compile", f"{subjects}:causal", *qkv(), "--print-ir-after=canonicalise").error
    assert said.startswith("error: unknown pass 'canonicalise' (there are absorb-rows, analyze-mask, canonicalize,")


@pytest.mark.parametrize(
    "options",
    [
        ("--check", "--target", "sm_90"),
        ("--emit", "cubin"),
        ("--emit", "sass"),
        ("--emit", "mlir", "--target", "sm_90"),
        ("--emit", "ptx", "--target", "avx512"),
        ("--output", "x.mlir"),
        ("--target", "sm_11"),
        ("--rest", "cuda"),
        ("--no-such-option",),
    ],
)
def test_wrong_usage_exits_with_2(options: tuple[str, ...], attir: Attir, subjects: str) -> None:
    outcome = attir("compile", f"{subjects}:causal", *qkv(), *options)
    assert (outcome.code, outcome.out) == (2, "")
    assert "usage: attir compile" in outcome.err and "Traceback" not in outcome.err


def test_a_stage_of_other_devices_names_those_that_have_it(attir: Attir, subjects: str) -> None:
    command = ("compile", f"{subjects}:causal", *qkv())
    assert "mlir is for CPUs, but sm_90 is a GPU; expected --target avx512, avx2" in (
        attir(*command, "--emit", "mlir", "--target", "sm_90").err
    )
    assert "ptx is for GPUs, but avx2 is a CPU; expected --emit aten, attn, tile, mlir, asm" in (
        attir(*command, "--emit", "ptx", "--target", "avx2").err
    )


@pytest.mark.parametrize("arguments", [(), ("frobnicate",), ("--versoin",), ("compile",), ("explain",), ("opt",)])
def test_a_command_that_is_none_or_not_complete(arguments: tuple[str, ...], attir: Attir) -> None:
    outcome = attir(*arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert "attir" in outcome.err and "Traceback" not in outcome.err


def test_a_dump_into_a_file_is_refused_before_anything_runs(attir: Attir, subjects: str, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    said = attir("compile", f"{subjects}:causal", *qkv(), "--dump", str(tmp_path / "taken" / "deeper")).error
    assert f"cannot write into {tmp_path}/taken/deeper: {tmp_path}/taken is not a directory" in said
    assert (tmp_path / "taken").read_text() == "mine"


@pytest.mark.parametrize("stage", ["tile", "cubin", "asm"])
def test_an_output_that_cannot_be_written_leaves_nothing(
    stage: str, attir: Attir, subjects: str, tmp_path: Path
) -> None:
    (tmp_path / "taken").write_text("mine")
    where = tmp_path / "taken" / "x"
    said = attir("compile", f"{subjects}:causal", *qkv(), "--emit", stage, "--output", str(where)).error
    assert f"cannot write into {tmp_path}/taken: {tmp_path}/taken is not a directory" in said
    assert (tmp_path / "taken").read_text() == "mine"


def test_an_output_that_is_a_directory_leaves_nothing_behind(attir: Attir, subjects: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    where = str(tmp_path / "folder")
    assert (
        f"cannot write {where}: "
        in attir("compile", f"{subjects}:causal", *qkv(), "--emit", "attn", "--output", where).error
    )
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix != ".pyc") == ["folder", "subjects.py"]


def test_an_error_writes_no_output(attir: Attir, subjects: str, tmp_path: Path) -> None:
    where, dump = tmp_path / "x.mlir", tmp_path / "dump"
    options = ("--emit", "tile", "--output", str(where), "--dump", str(dump))
    assert attir("compile", f"{subjects}:fails", *qkv("f32[3]"), *options).error
    assert not where.exists() and not dump.exists()


def test_an_interrupt_ends_quietly(attir: Attir, subjects: str) -> None:
    outcome = attir("compile", f"{subjects}:interrupted", *qkv("f32[3]"))
    assert (outcome.code, outcome.out) == (130, "")
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('"func.func"() <{', r"bad\.mlir:\d+:\d+: error: "),
        ('"attn.frobnicate"() : () -> ()\n', r"bad\.mlir:1:1: error: .*attn\.frobnicate"),
        ("é" * 3, r"bad\.mlir:1:1: error: "),
    ],
)
def test_malformed_ir(text: str, message: str, attir: Attir, tmp_path: Path) -> None:
    path = tmp_path / "bad.mlir"
    path.write_text(text)
    assert re.search(message, attir("opt", str(path)).error)


@pytest.mark.parametrize("passes", ["canonicalise", "plan{targets=sm_90}", "plan{target=sm_11}", "plan{", "cse,,dce"])
def test_a_pipeline_that_does_not_parse(passes: str, attir: Attir, tmp_path: Path) -> None:
    path = tmp_path / "empty.mlir"
    path.write_text('"builtin.module"() ({\n^bb0:\n}) : () -> ()\n')
    outcome = attir("opt", str(path), f"--passes={passes}")
    if passes == "plan{target=sm_11}":  # nothing to plan, so nobody asks what the device is
        assert outcome.code in (0, 1)
    else:
        assert outcome.error


def test_from_a_shell_there_is_no_traceback_either(subjects: str) -> None:
    command = [str(Path(sys.executable).with_name("attir")), "compile", f"{subjects}:leaves", *qkv("f32[3]")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.splitlines()[0].startswith("capturing ") and "Traceback" not in done.stderr
