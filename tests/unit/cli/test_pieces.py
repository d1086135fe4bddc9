"""The pieces of the command line: inputs, targets, agreement, the doctor, and what start-up loads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from unit.cli.command_line import Attir

from attir.compiler import doctor
from attir.compiler.agreement import compare, tensors_in
from attir.compiler.attention_cases import Case
from attir.compiler.host_cpu import host_name
from attir.compiler.input_spec import InputSpec, dynamic_sizes, make_inputs, parse_input
from attir.compiler.native_support import native_problem
from attir.compiler.options import Options
from attir.compiler.target import load_target, parse_config
from attir.compiler.without_running import kernels_for
from attir.ir.attributes import f32
from attir.ir.diagnostics import CompileError

HEAVY = ("torch", "triton", "numpy", "transformers")
EMPTY = '"builtin.module"() ({\n^bb0:\n}) : () -> ()\n'


# --- start-up


@pytest.mark.parametrize(
    "arguments", [["--version"], ["--help"], ["opt", "FILE"], ["opt", "FILE", "--passes=plan,cse"]]
)
def test_small_commands_load_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "x.mlir").write_text(EMPTY)
    arguments = [str(tmp_path / "x.mlir") if a == "FILE" else a for a in arguments]
    program = (
        "import sys; from attir.compiler.cli import main; code = main(sys.argv[1:]); "
        f"print(code, [m for m in {HEAVY} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == "0 []"
    assert done.stdout


def test_the_installed_command(tmp_path: Path) -> None:
    command = str(Path(sys.executable).with_name("attir"))
    for arguments, code in ((["--version"], 0), (["opt", str(tmp_path / "none.mlir")], 1), (["opt"], 2), ([], 2)):
        done = subprocess.run([command, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == code, arguments
        assert "Traceback" not in done.stderr and bool(done.stdout) == (code == 0)


def test_a_reader_that_goes_away_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "x.mlir").write_text(EMPTY)
    command = f"'{Path(sys.executable).with_name('attir')}' opt '{tmp_path}/x.mlir' | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == ""


# --- inputs


def test_an_input_is_read_and_printed() -> None:
    spec = parse_input(" q = f16[2, 8,s ,64] ")
    assert spec == InputSpec("q", "f16", (2, 8, "s", 64)) and str(spec) == "q=f16[2,8,s,64]"
    assert parse_input("i64[]") == InputSpec(None, "i64", ())


@pytest.mark.parametrize(
    "text", ["", "q", "q=", "q=f16", "q=f16[", "1=f16[1]", "q=f16[1,,2]", "q=f16[1.5]", "q=f99[1]"]
)
def test_an_input_that_does_not_parse(text: str) -> None:
    with pytest.raises(CompileError, match="cannot read input"):
        parse_input(text)


def test_one_name_is_one_size_and_marked_dynamic() -> None:
    positional, named = make_inputs([parse_input("f32[2,s]"), parse_input("k=i1[s,t]"), parse_input("i8[t]")])
    assert positional[0].shape[1] == named["k"].shape[0] != named["k"].shape[1] == positional[1].shape[0]
    assert (positional[0].dtype, named["k"].dtype, positional[1].dtype) == (torch.float32, torch.bool, torch.int8)
    assert getattr(positional[0], "_dynamo_dynamic_indices") == {1}  # noqa: B009


def test_integers_stay_below_the_largest() -> None:
    (ids,), _ = make_inputs([parse_input("i64[1000]")], largest_integer=7)
    assert (ids.min().item(), ids.max().item()) == (0, 6)


def test_more_dynamic_sizes_than_there_are_examples() -> None:
    with pytest.raises(CompileError, match=r"7 dynamic sizes are given \(a, b, c, d, e, f, g\), but at most 6 can be"):
        dynamic_sizes([parse_input("f32[a,b,c,d,e,f,g]")])


# --- targets


def test_a_file_may_import_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "a_neighbour_of_test.py").write_text("def f(x): return x + 1\n")
    (tmp_path / "a_target_of_test.py").write_text("from a_neighbour_of_test import f\n")
    before = list(sys.path)
    assert load_target(f"{tmp_path}/a_target_of_test.py:f").call(1) == 2
    assert sys.path == before


def test_a_package_and_an_attribute_of_an_attribute() -> None:
    assert load_target("torch.nn.functional:softmax").call is torch.nn.functional.softmax
    assert load_target("torch:nn.functional.softmax").call is torch.nn.functional.softmax


def test_settings_have_types() -> None:
    expected = {"a": 1, "b": 0.5, "c": True, "d": None, "e": "eager"}
    assert parse_config("a=1, b=0.5,c=true,d=None,e=eager,") == expected


# --- agreement

X = torch.linspace(-1.0, 1.0, 12).reshape(3, 4)


@pytest.mark.parametrize(
    ("ours", "eager", "said"),
    [
        (X, X + 1e-6, "check: agrees with eager PyTorch (1 tensor, "),
        (X, X + 1e-3, "check: DISAGREES with eager PyTorch (1 tensor, largest difference 1.0e-03, "),
        ([X, {"a": X}], (X, {"a": X}), "check: agrees with eager PyTorch (2 tensors, largest difference 0.0e+00"),
        ([X, X + 1e-3], [X, X], "check: DISAGREES with eager PyTorch (2 tensors, largest difference 1.0e-03, "),
        ([X + 1e-3, X], [X, X], "check: DISAGREES with eager PyTorch (2 tensors, largest difference 1.0e-03, "),
        ([X], [X, X], "check: DISAGREES with eager PyTorch: 1 tensors against 2"),
        (
            X,
            X[:2],
            "check: DISAGREES with eager PyTorch: result 0 is torch.float32 (3, 4) against torch.float32 (2, 4)",
        ),
        (X, X.half(), "check: DISAGREES with eager PyTorch: result 0 is torch.float32 (3, 4) against torch.float16"),
        (X / 0, X, "check: DISAGREES with eager PyTorch: one has inf or nan where the other has something else"),
        (X / 0, X / 0, "check: agrees with eager PyTorch (1 tensor, largest difference 0.0e+00"),
        (X / 0, -X / 0, "check: DISAGREES with eager PyTorch: one has inf or nan where"),
        (X * float("nan"), X / 0, "check: DISAGREES with eager PyTorch: one has inf or nan where"),
        (X > 0, X >= 0, "check: agrees"),
        (X > 0, X < 0, "check: DISAGREES with eager PyTorch: a result of torch.bool differs"),
        (X.long(), X.long(), "check: agrees"),
    ],
)
def test_agreement(ours: Any, eager: Any, said: str) -> None:
    agreement = compare(ours, eager)
    assert str(agreement).startswith(said)
    assert agreement.holds == said.startswith("check: agrees")


def test_the_bound_is_rounding_of_the_dtype() -> None:
    for dtype, inside, outside in (
        (torch.float16, 1e-3, 2e-2),
        (torch.bfloat16, 1e-2, 1e-1),
        (torch.float64, 1e-7, 1e-3),
    ):
        x = X.to(dtype)
        assert compare(x + inside, x).holds and not compare(x + outside, x).holds


def test_tensors_are_found_inside_results() -> None:
    assert len(tensors_in({"a": [X, (X, None, 3)], "b": "text"})) == 2
    assert compare(None, None).holds


# --- kernels for a device that is not here


def test_kernels_that_are_not_run_return_zeros_of_the_right_shape() -> None:
    site = kernels_for("sm_80")(Case(f32, 16, form="causal").module(), Options())
    q, k, v = torch.randn(2, 4, 5, 16), torch.randn(2, 4, 7, 16), torch.randn(2, 4, 7, 16)
    out, lse = site.runner(q, k, v, (), True)
    assert out.shape == (2, 4, 5, 16) and lse.shape == (2, 4, 5) and not out.any()
    assert site.runner(q, k, v, (), False)[1].shape == (0,)
    assert site.plan["target"] == "sm_80"


@pytest.mark.parametrize(("queries", "calls"), [(None, "prefill, any rows: before any call"), (3, "decode, 4 rows: 3")])
def test_native_kernels_that_are_not_run_are_those_for_the_sizes(queries: int | None, calls: str) -> None:
    site = kernels_for("avx2")(Case(f32, 16, form="causal").module(), Options(), queries)
    assert (site.plan["target"], site.language) == ("avx2", "mlir")
    (variant,) = site.variants
    assert variant.calls.startswith(calls) and variant.origin == "not run"


# --- the doctor


def test_the_doctor_says_what_works(attir: Attir) -> None:
    outcome = attir("doctor")
    assert outcome.code == 0, outcome.out
    lines = outcome.out.splitlines()
    assert lines[0].startswith("attir ") and lines[-1] == "everything needed works"
    for what in ("torch", "triton", "numpy", "lark", "reads and writes IR", "Triton's interpreter", "kernel cache"):
        assert any(line.startswith(f"  ok    {what} ") for line in lines), what
    native = next(line for line in lines if "native kernels" in line)
    assert native.startswith("  -  " if native_problem() else "  ok ") and host_name() in native


def test_the_doctor_says_what_native_kernels_lack(attir: Attir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "native_problem", lambda: "the native backend needs torch-mlir")
    outcome = attir("doctor")
    assert outcome.code == 0
    assert "  -     native kernels               the native backend needs torch-mlir (this CPU: " in outcome.out


def test_the_doctor_says_what_does_not(attir: Attir, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    monkeypatch.setenv("ATTIR_CACHE_DIR", str(tmp_path / "taken"))
    outcome = attir("doctor")
    assert outcome.code == 1 and "Traceback" not in outcome.err
    assert any(line.startswith("  BAD   kernel cache ") for line in outcome.out.splitlines())
    assert outcome.out.splitlines()[-1].endswith("need attention")
