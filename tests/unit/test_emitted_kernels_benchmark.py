"""A small part of the table of emitted kernels: compiled for real, without a GPU."""

from __future__ import annotations

import pytest

from attir.ir.attributes import f16
from benchmarks.attention_cases import Case
from benchmarks.emitted_kernels import measure


@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
@pytest.mark.parametrize(("width", "form"), [(64, "causal"), (128, "alibi")])
def test_kernels_meet_the_bars(target: str, width: int, form: str) -> None:
    row = measure(target, Case(f16, width, form=form, lse=False))
    assert row.meets_the_bars, row
