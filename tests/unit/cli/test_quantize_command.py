"""`--quantize` on the command line: what is shown, and what is refused."""

from __future__ import annotations

import pytest
from unit.cli.command_line import Attir, qkv


def test_the_report_names_the_scheme(attir: Attir, subjects: str) -> None:
    outcome = attir("explain", f"{subjects}:causal", *qkv("f32[1,2,64,64]"), "--quantize", "kv4")
    assert outcome.code == 0
    assert "quantize  kv4: k uint4 + zero, a scale for 64 tokens x each channel; v uint4 + zero" in outcome.out


def test_the_step_is_shown(attir: Attir, subjects: str) -> None:
    command = ("compile", f"{subjects}:causal", *qkv("f16[1,2,64,64]"), "--target", "sm_90", "--emit", "triton")
    shown = attir(*command, "--quantize", "int8(smooth=False)", "--print-ir-after=quantize")
    assert "attn.quantize" in shown.err and "attn.subtract_mean" not in shown.err


def test_what_a_device_lacks_is_told(attir: Attir, subjects: str) -> None:
    command = (
        "compile",
        f"{subjects}:causal",
        *qkv("f16[1,2,64,64]"),
        "--quantize",
        "fp8",
        "--strict",
        "--emit",
        "triton",
    )
    assert attir(*command, "--target", "sm_90").code == 0
    outcome = attir(*command, "--target", "sm_80")
    assert outcome.code == 1
    assert "'query' is stored as f8E4M3FN" in outcome.err and "sm_80 has no 8-bit floats of that kind" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--quantize", "kv4", "--check"), "--quantize changes what it computes; use one"),
        (("--quantize", "kv40"), "unknown scheme 'kv40'; expected int8, fp8"),
        (("--quantize", "auto"), "--quantize auto needs inputs to calibrate on"),
    ],
)
def test_what_cannot_be_done_is_refused(arguments: tuple[str, ...], message: str, attir: Attir, subjects: str) -> None:
    outcome = attir("compile", f"{subjects}:causal", *qkv(), *arguments)
    assert outcome.code != 0 and message in outcome.err
