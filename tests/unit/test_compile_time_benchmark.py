"""The harness of benchmarks/compile_time.py measures what it says, on equal functions; no time is judged here."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from numeric.closeness import NATIVE

from attir.compiler.kernels import Site
from attir.compiler.native_threads import NativeFunction
from benchmarks import compile_time
from benchmarks.compile_time import CASES, Case, Function, Times


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_both_compute_the_same_attention(case: Case) -> None:
    times = Times()
    ours = compile_time.measure_attir(case, "cpu", times)
    compile_time.check_agreement(case, ours, case.flex("cpu")(*case.inputs("cpu")))
    assert len(times.attir) == len(times.attir_again) == 1
    assert times.attir[0] > times.attir_again[0] > 0


def test_different_attention_is_not_timed() -> None:
    with pytest.raises(SystemExit, match=r"causal: attir and FlexAttention differ by 1\.0e\+00"):
        compile_time.check_agreement(CASES[0], torch.zeros(1), torch.ones(1))


def test_every_compile_starts_from_nothing() -> None:
    sites: list[object] = []
    for _ in range(2):
        with compile_time.nothing_compiled(), torch.no_grad():
            compiled, backend = compile_time.attir_compiled(CASES[0])
            compiled(*CASES[0].inputs("cpu"))
            assert not list(Path(os.environ["ATTIR_CACHE_DIR"]).glob("objects/*"))
            sites.append(backend.compiled["attention_0_0"])
    first, second = (site for site in sites if isinstance(site, Site))
    assert first.kernel is not second.kernel and first.kernel_source == second.kernel_source
    assert all(v.origin.startswith("compiled in") for site in (first, second) for v in site.variants)


@NATIVE
def test_the_overhead_leaves_the_kernel_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel runs for the first result alone; each call that is timed, or warms up, starts an empty one."""
    started: list[str] = []
    run = NativeFunction.run

    def run_counted(function: NativeFunction, block: int, threads: int) -> None:
        started.append("kernel")
        run(function, block, threads)

    def start_nothing(*_: object) -> None:
        started.append("nothing")

    monkeypatch.setattr(NativeFunction, "run", run_counted)
    monkeypatch.setattr(compile_time.EmptyFunction, "run", start_nothing)
    call, floor = compile_time.overhead(CASES[0], "cpu", 50)
    assert call > 0 and floor > 0
    assert started == ["kernel"] + ["nothing"] * 55


def test_quick_prints_a_table_and_writes_every_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def uncompiled(function: Function, *, backend: Callable[..., object] | None = None) -> Function:
        return torch.compile(function, backend=backend) if backend else function  # pyright: ignore

    # Compiling FlexAttention takes seconds, and its result is that of the plain function.
    monkeypatch.setattr(compile_time, "torch_compile", uncompiled)
    path = tmp_path / "new" / "times.json"
    assert compile_time.main(["--quick", "--calls", "20", "--json", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("1x4x64x32 f32 on ") and "torch " in lines[0]
    assert lines[-1].startswith("| causal | ") and lines[-1].count("|") == lines[-2].count("|") == 8
    record = json.loads(path.read_text())
    times = record["cases"]["causal"]
    assert len(times["attir"]) == len(times["flex"]) == len(times["call"]) == record["settings"]["rounds"] == 1
    assert times["ratio"] == pytest.approx(times["attir"][0] / times["flex"][0])
    assert times["overhead_us"] == pytest.approx(times["call"][0] - times["floor"][0])
