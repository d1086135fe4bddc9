"""Attention runs where its tensors are, natively if it can, and otherwise says so aloud."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, cast

import pytest
import torch

import attir
from attir.compiler import native_support, options, places
from attir.compiler.places import place_for
from attir.compiler.warn_once import warn_once

CPU, GPU = torch.empty(1), torch.empty(1, device="meta")
LACKS = "the native backend needs torch-mlir, which is not installed; pip install torch-mlir"


@pytest.fixture
def without_native(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine on which native code cannot run, and a process that has not warned of it yet."""
    for module in (places, options):
        monkeypatch.setattr(module, "native_problem", lambda: LACKS)
    warn_once.cache_clear()
    cast(Any, torch)._dynamo.reset()
    yield
    warn_once.cache_clear()


def test_cpu_tensors_run_natively(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "native_problem", lambda: "")
    place = place_for("auto", [CPU, 3])
    assert (place.backend, place.why) == ("native", "native: machine code, because tensors are on the cpu")
    assert place.warning == ""


@pytest.mark.usefixtures("without_native")
def test_without_native_code_the_interpreter_runs_and_the_warning_says_what_to_do() -> None:
    place = place_for("auto", [CPU])
    assert place.backend == "interpret" and "for correctness only" in place.why
    assert place.warning == f"attention runs in Triton's interpreter, which is SLOW: {LACKS}"


@pytest.mark.usefixtures("without_native")
def test_the_warning_is_a_note_of_each_report_and_given_once() -> None:
    def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return torch.softmax(q @ k.transpose(-1, -2), -1) @ v

    q = torch.randn(1, 2, 4, 16)
    reports: list[str] = []
    with warnings.catch_warnings(record=True) as caught, torch.no_grad():
        warnings.simplefilter("always")
        for _ in range(2):
            compiled = attir.compile(attention)
            compiled(q, q, q)
            reports.append(str(attir.explain(compiled)))
    ours = [str(w.message) for w in caught if "attir" in str(w.message)]
    assert ours == [f"attir: attention runs in Triton's interpreter, which is SLOW: {LACKS}"]
    for report in reports:
        assert f"  note: attention runs in Triton's interpreter, which is SLOW: {LACKS}\n" in report
        assert "      backend   interpret: Triton's interpreter, for correctness only" in report


@pytest.mark.usefixtures("without_native")
def test_native_code_that_is_asked_for_and_cannot_run_is_an_error() -> None:
    with pytest.raises(attir.CompileError, match=f"backend 'native' cannot run here: {LACKS}"):
        attir.compile(lambda x: x, backend="native")  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(_: str) -> None:
        return None

    with monkeypatch.context() as patch:
        patch.setattr("importlib.util.find_spec", nothing)
        assert native_support.native_problem() == LACKS

    def unsupported() -> str:
        raise attir.CompileError(*options.error("this CPU lacks avx2").diagnostics)

    monkeypatch.setattr(native_support, "host_target", unsupported)
    assert native_support.native_problem() in (LACKS, "this CPU lacks avx2")


@pytest.mark.parametrize(
    ("wanted", "device", "message"),
    [
        (
            "triton",
            "cpu",
            "backend 'triton' needs tensors on a GPU, but they are on the cpu; expected backend 'native'",
        ),
        (
            "native",
            "cuda",
            "backend 'native' needs tensors on the cpu, but they are on a GPU; expected backend 'triton'",
        ),
        ("auto", "meta", "there are no kernels for tensors on 'meta'; expected cpu or cuda"),
    ],
)
def test_a_backend_for_other_tensors_is_refused(wanted: str, device: str, message: str) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        example = torch.empty(1, device=device)
    with pytest.raises(attir.CompileError, match=message):
        place_for(wanted, [example])


@pytest.mark.parametrize("wanted", ["native", "interpret"])
def test_what_is_asked_for_is_said_to_be(wanted: str) -> None:
    assert place_for(wanted, [CPU]) == places.Place(wanted, f"{wanted}, as asked")
