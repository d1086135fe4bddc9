"""`attir explain --costs`: every term of what was chosen, for CPUs and GPUs, and in words what cannot be told."""

from __future__ import annotations

import re

import pytest
from unit.cli.command_line import Attir, qkv

CALL = qkv("f16[2,8,512,64]")


def seconds(text: str) -> float:
    number, unit = text.split()
    return float(number) * {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}[unit]


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "avx512", "avx2"])
def test_visible_terms_sum_up_to_the_call(target: str, attir: Attir, subjects: str) -> None:
    outcome = attir("explain", f"{subjects}:causal", *CALL, "--target", target, "--costs")
    assert outcome.code == 0, outcome.err
    first, *lines = outcome.out.splitlines()
    assert re.match(r"site 1: 2x8x8x512x512 on .*, \d+x\d+ tiles: [\d.e+]+ [mnu]?s a call$", first)
    assert 8 <= len(lines) <= 24
    terms = [match for line in lines if (match := re.match(r"    (\w[\w ]*?) {2,}([\d.e+-]+ [mnu]?s)( |$)", line))]
    total = seconds(first.removesuffix(" a call").rpartition(": ")[2])
    assert sum(seconds(match[2]) for match in terms) == pytest.approx(total, rel=0.01)
    told = "\n".join(lines)
    for name in ("visits", "counts", "loads", "stores", "I/O"):
        assert re.search(rf"^    {name} ", told, re.MULTILINE)
    assert "FLOP" in told and "of fast memory" in told


def test_a_device_by_the_name_it_is_sold_under(attir: Attir, subjects: str) -> None:
    h100, h200 = (
        attir("explain", f"{subjects}:causal", *CALL, "--target", "sm_90", *costs).out
        for costs in (("--costs",), ("--costs", "h200"))
    )
    assert "on H100 (sm_90)" in h100 and "on H200 (sm_90)" in h200 and "memory bound" in h200


@pytest.mark.parametrize(
    ("target", "device", "problem"),
    [
        ("sm_90", "a100", "A100 runs kernels for sm_80, and these are for sm_90 (h100, h200)"),
        ("sm_90", "l40s", "L40S is sm_89, for which no kernels are made"),
        ("avx512", "h100", "kernels for 'avx512' run on no device called 'h100'"),
        ("sm_80", "v100", "device must be one of a100, h100, h200, b200, rtx4090, l40s, mi300x"),
    ],
)
def test_what_cannot_be_told_is_said(target: str, device: str, problem: str, attir: Attir, subjects: str) -> None:
    outcome = attir("explain", f"{subjects}:causal", *CALL, "--target", target, "--costs", device)
    assert outcome.code != 0 and problem in outcome.err + outcome.out
