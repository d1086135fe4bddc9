"""The check that specialised warps must pass on a device, here in the interpreter, and its record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from attir.compiler import verified
from attir.compiler.attention_cases import Case
from attir.compiler.outlined import OutlinedAttention
from attir.compiler.verified import Verdict, check, machine_key, record, record_file, recorded, require, worthwhile
from attir.compiler.verify_specialised import problem
from attir.ir.attributes import f16
from attir.ir.diagnostics import CompileError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTIR_CACHE_DIR", str(tmp_path))


def test_the_check_passes_in_the_interpreter_and_is_kept() -> None:
    verdict = check("interpret")
    assert verdict.passed, verdict.reason
    assert recorded(machine_key("interpret")) == verdict
    assert require("interpret") == verdict


def test_a_check_that_hangs_has_failed() -> None:
    verdict = check("interpret", timeout=0.2, command=("-c", "import time; time.sleep(60)"))
    assert not verdict.passed
    assert "did not end within 0.2 s" in verdict.reason
    with pytest.raises(CompileError, match=r"did not pass their check on this device .*hangs"):
        require("interpret")


def test_a_check_that_crashes_has_failed() -> None:
    verdict = check("interpret", command=("-c", "raise SystemExit('broken device')"))
    assert (verdict.passed, verdict.reason) == (False, "it ended with exit status 1: broken device")


def test_wrong_results_are_told() -> None:
    said = json.dumps({"passed": False, "reason": "error 1.0e+00, of at most 1.0e-03", "speedups": {}})
    verdict = check("interpret", command=("-c", f"print({said!r})"))
    assert verdict.reason == "error 1.0e+00, of at most 1.0e-03"


def test_a_record_that_cannot_be_read_is_none() -> None:
    record_file().parent.mkdir(parents=True, exist_ok=True)
    for text in ("", "[]", "{}", '{"x": 3}'):
        record_file().write_text(text)
        assert recorded("x") is None
    record("x", Verdict(True))
    record("y", Verdict(False, "slow"))
    assert recorded("x") == Verdict(True) and recorded("y") == Verdict(False, "slow")


@pytest.mark.parametrize(("speedup", "form", "taken"), [
    (1.2, "causal", True), (1.0, "causal", False), (1.2, "none", False), (1.2, "window", False),
    (1.2, "alibi", False), (1.2, "documents", False),
])  # fmt: skip
def test_specialised_warps_are_taken_only_where_they_were_measured_to_pay(
    speedup: float, form: str, taken: bool
) -> None:
    attention = OutlinedAttention(Case(f16, 128, form=form).module()).attention
    assert not worthwhile(attention, "interpret")
    record(machine_key("interpret"), Verdict(True, speedups={"causal, D=128": speedup}))
    assert worthwhile(attention, "interpret") is taken
    record(machine_key("interpret"), Verdict(False, speedups={"causal, D=128": speedup}))
    assert not worthwhile(attention, "interpret")


def test_the_problems_of_the_check_are_programs() -> None:
    for causal in (False, True):
        assert OutlinedAttention(problem(64, causal)).attention.mask.empty is not causal


def test_wishes_are_checked_on_a_device_before_they_are_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    from attir.compiler.triton_runtime import triton_site

    failed = Verdict(False, "it did not end within 300 s, as a kernel that hangs", "2026-11-21")

    def key(backend: str) -> str:
        return f"a device for {backend}"

    monkeypatch.setattr(verified, "machine_key", key)
    record("a device for triton", failed)
    with pytest.raises(CompileError, match="did not pass their check on this device"):
        triton_site(Case(f16, 128).module(), "sm_90", wishes=(("specialised", 1),))
