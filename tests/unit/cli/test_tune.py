"""`attir tune`: captures, measures each site for each shape, says what was found, and fills the cache."""

from __future__ import annotations

import json
from dataclasses import astuple
from pathlib import Path

import pytest
import torch
from unit.cli.command_line import Attir

from attir.compiler import tune_command
from attir.compiler.native_support import native_problem
from attir.compiler.tune_command import tensors_like
from attir.cost_model.problem import Sizes
from attir.ir.diagnostics import CompileError

native = pytest.mark.skipif(bool(native_problem()), reason=f"no native kernels: {native_problem()}")
INPUTS = [part for name in "qkv" for part in ("--input", f"{name}=f32[1,2,48,16]")]
FAST = ["--autotune", "top2", "--seconds", "5"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known from other tests."""
    monkeypatch.setenv("ATTIR_CACHE_DIR", str(tmp_path / "cache"))


@native
def test_each_site_is_tuned_for_each_shape_and_found_again(attir: Attir, subjects: str) -> None:
    command = ["tune", f"{subjects}:twice", *INPUTS, *FAST, "--shapes", "1x2x2x64x64,1x2x2x1x96", "--json"]
    code, out, err = astuple(attir(*command))
    assert code == 0, err
    found = json.loads(out)
    assert [one["sizes"] for one in found] == ["1x2x2x64x64", "1x2x2x1x96"] * 2
    assert len({one["site"] for one in found}) == 2
    for one in found:
        assert "measured 2 of " in one["source"] and one["measured_us"] > 0 and one["runner_up_1_us"] > 0
        assert one["schedule"]["block_n"] > 0
    again = json.loads(attir(*command).out)
    assert all(one["source"].startswith("cache: measured 2 of ") for one in again)
    assert [one["schedule"] for one in again] == [one["schedule"] for one in found]


@native
def test_without_shapes_the_inputs_say_them(attir: Attir, subjects: str) -> None:
    code, out, err = astuple(attir("tune", f"{subjects}:causal", *INPUTS, *FAST))
    assert code == 0, err
    assert "1x2x2x48x48" in out
    for label in ("kernel ", "decision ", "predicted ", "measured ", "next "):
        assert f"    {label}" in out


@native
def test_what_was_measured_is_explained_without_running_anything(attir: Attir) -> None:
    subject = "examples/alibi_window.py:attention"
    inputs = [part for name in "qkv" for part in ("--input", f"{name}=f32[1,2,48,16]")]
    inputs += ["--input", "slopes=f32[2]"]
    before = attir("explain", subject, *inputs)
    assert before.code == 0, before.err
    assert "measured  not yet" in before.out
    tuned = attir("tune", subject, *inputs, "--autotune", "top3", "--seconds", "5", "--json")
    assert tuned.code == 0, tuned.err
    (found,) = json.loads(tuned.out)
    after = attir("explain", subject, *inputs).out
    assert f"measured  {found['measured_us']} us" in after and "cache: measured 3 of " in after
    assert after.count("us measured") == 2 and after.count("    next ") == 2
    assert f"block_m={found['schedule']['block_m']}, block_n={found['schedule']['block_n']}," in after
    # Another device, and sizes of another bucket, have plans of their own.
    assert "measured  not yet" in attir("explain", subject, *inputs, "--target", "sm_90").out
    longer = [text.replace("48", "480") for text in inputs]
    assert "measured  not yet" in attir("explain", subject, *longer).out


@native
def test_a_shape_that_cannot_be_is_told_of(attir: Attir, subjects: str) -> None:
    code, out, _ = astuple(attir("tune", f"{subjects}:causal", *INPUTS, *FAST, "--shapes", "1x8x2x64x64"))
    assert code == 1
    assert "problem   sizes 1x8x2x64x64 have 8 heads for 2 key heads, but this attention has 1 for each key head" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shapes", "1x2"], "sizes must be BATCHxHEADSxKEY_HEADSxQUERIESxKEYS"),
        (["--autotune", "off"], "autotune 'off' measures nothing now; expected topK, such as top3, or full"),
        (["--autotune", "background"], "autotune 'background' measures nothing now"),
        (["--autotune", "best"], "unknown autotune 'best'"),
        (["--seconds", "-1"], "tune_seconds must be a positive number"),
        (["--target", "sm_90"], "cannot measure kernels for sm_90 here"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    attir: Attir, subjects: str, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, out, err = astuple(attir("tune", f"{subjects}:causal", *INPUTS, *arguments))
    assert code == 1 and message in err and out == ""


@native
def test_a_target_without_attention_is_refused(attir: Attir, subjects: str) -> None:
    code, _, err = astuple(attir("tune", f"{subjects}:plus_one", "--input", "x=f32[2,3]"))
    assert code == 1 and "there is nothing to tune" in err


def test_autotune_of_compile_needs_a_run(attir: Attir, subjects: str) -> None:
    code, _, err = astuple(attir("compile", f"{subjects}:causal", *INPUTS, "--autotune", "top3"))
    assert code == 2 and "--autotune measures kernels, which only --check runs here" in err


@pytest.mark.parametrize(("option", "module"), tune_command.OTHERS.items())
def test_other_kinds_of_tuning_are_asked_for_by_an_option(
    attir: Attir, monkeypatch: pytest.MonkeyPatch, option: str, module: str
) -> None:
    import importlib

    heard: list[list[str]] = []

    def listen(argv: list[str]) -> int:
        heard.append(argv)
        return 0

    monkeypatch.setattr(importlib.import_module(f"attir.compiler.{module}"), "run", listen)
    assert attir("tune", option, "--seconds", "1").code == 0
    assert heard == [["--seconds", "1"]]


# --- tensors for other sizes


def tensors(*captures: torch.Tensor) -> tuple[torch.Tensor, ...]:
    q = torch.zeros(2, 48, 4, 16).transpose(1, 2)
    return (q, torch.zeros(2, 2, 40, 16), torch.zeros(2, 2, 40, 8), *captures)


def test_captured_tensors_repeat_what_they_hold() -> None:
    mask = torch.tensor([[True, False] * 20] * 48)
    bias = torch.arange(4.0)[None, :, None, None].expand(1, 4, 1, 1)
    q, k, v, wider, same = tensors_like(tensors(mask, bias), Sizes(1, 4, 2, 64, 128))
    assert (q.shape, k.shape, v.shape) == ((1, 4, 64, 16), (1, 2, 128, 16), (1, 2, 128, 8))
    assert q.transpose(1, 2).is_contiguous() and k.is_contiguous()
    assert wider.shape == (64, 128) and wider.dtype == torch.bool and torch.equal(wider[0, :4], mask[0, :4])
    assert torch.equal(same, bias)


@pytest.mark.parametrize(
    ("capture", "problem"),
    [
        (torch.zeros(48, dtype=torch.int32), "may hold places in other tensors"),
        (torch.zeros(77), "has an axis of 77, which does not say what it becomes"),
    ],
)
def test_captured_tensors_whose_meaning_is_unknown_are_refused(capture: torch.Tensor, problem: str) -> None:
    with pytest.raises(CompileError, match=problem):
        tensors_like(tensors(capture), Sizes(2, 4, 2, 64, 64))
    # As they are they can stay.
    assert tensors_like(tensors(capture), Sizes(2, 4, 2, 48, 64))[3] is capture if capture.shape[0] == 48 else True
