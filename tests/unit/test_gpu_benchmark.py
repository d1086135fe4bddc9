"""The command for a GPU runs without one, its timing on a clock of its own, so that it cannot rot."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from attir.compiler.attention_cases import FORMS, Case, Shape
from attir.compiler.lowering import lower
from attir.compiler.triton_kernels import rows_for
from attir.cost_model.schedule import AS_MANY_AS_FIT
from attir.ir.attributes import bf16, f16, f32
from benchmarks.gpu import kernels, rivals, speed, table
from benchmarks.gpu.bench import MOST_COPIES, Bench, Budget, Call, copies_for, take_turns
from benchmarks.gpu.layer import LayerSize
from benchmarks.gpu.problems import PROBLEMS, Problem
from benchmarks.gpu.record import Record, Timed
from benchmarks.gpu.run import main

LAYER = LayerSize(24, 2, 16)


@dataclass
class Clock:
    """Each call takes a millisecond more than the one before, and a second of the day."""

    seconds: float = 0.0
    calls: int = 0

    def milliseconds(self, call: Call) -> float:
        call()
        self.calls += 1
        self.seconds += 1.0
        return float(self.calls)

    def day(self) -> float:
        return self.seconds

    def bench(self) -> Bench:
        def same(x: Any) -> Any:
            return x

        return Bench("cpu", self.milliseconds, self.day, same, same, lambda: None)


def problem(kind: str, form: str = "none", queries: int = 40, group: int = 1) -> Problem:
    case = Case(f32, 16, group=group, form=form, lse=False)
    return Problem(kind, case, Shape(1, 2 * group, 2, queries, 40), 1.0, 2.0)


def test_correctness_runs_in_the_interpreter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "record.json"
    assert main(["--correctness-only", "--out", str(file)]) == 0
    record = json.loads(file.read_text())
    assert record["versions"]["triton"] and len(record["checked"]) > 15
    assert all(found["error"] <= found["bound"] for found in record["checked"])
    assert "WRONG" not in capsys.readouterr().out


def test_every_kind_of_problem_is_timed_and_gets_a_figure(capsys: pytest.CaptureFixture[str]) -> None:
    clock, record = Clock(), Record.start()
    bench = clock.bench()
    given = [problem("forward", "causal"), problem("variant", "alibi"), problem("decode", queries=1, group=2)]
    speed.speed(record, bench, Budget.of(10_000, clock.day), given, LAYER, collect=True)
    assert not [found for found in record.checked if not found.holds]
    for each in given:
        times = record.of(each.title)
        assert {"attir", "attir persistent", "attir pointers", "flex"} <= times.keys()
        assert all(len(timed.milliseconds) >= 3 for timed in times.values())
    assert "sdpa flash" in record.of(given[0].title) and "sdpa flash" not in record.of(given[1].title)
    # No backend of cuDNN on a CPU: what it says is kept.
    assert any(name.startswith("sdpa cudnn") and reason for name, reason in record.absent.items())
    assert {row["problem"] for row in record.collected} == {each.title for each in given}
    assert all(row["schedule"]["block_n"] for row in record.collected)
    found = table.figures(record, given, LAYER)
    assert [figure.unit for figure in found] == ["TFLOP/s", "x", "of the copy", "x"]
    assert "alibi" in capsys.readouterr().out


def test_a_layer_is_timed_beside_pytorch() -> None:
    clock, record = Clock(), Record.start()
    bench = clock.bench()
    speed.time_layer(record, bench, Budget.of(100, clock.day), LAYER)
    assert {"attir", "torch.compile", "eager"} == record.of(LAYER.title).keys()
    assert record.checked[0].holds, record.checked[0]
    assert table.figures(record, [], LAYER)[0].what.startswith(LAYER.title)


def test_nothing_is_begun_without_time_left() -> None:
    clock, record = Clock(), Record.start()
    bench = clock.bench()
    given = [problem("forward"), problem("forward", "causal")]
    speed.speed(record, bench, Budget.of(-1, clock.day), given, LAYER, collect=False)
    assert not record.of(given[0].title)
    assert all("no time left" in record.absent[each.title] for each in given)


def test_a_wrong_kernel_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: Any) -> Any:
        return kernels.Checked("case", 1.0, 0.5)

    monkeypatch.setattr(speed, "check", wrong)
    clock, record = Clock(), Record.start()
    each = problem("forward")
    calls, _ = speed.ours(
        record, clock.bench(), Budget.of(100, clock.day), each, kernels.inputs(each.case, each.shape, "cpu", 1), 0,
        specialised=False,
    )  # fmt: skip
    assert not calls and not record.checked[0].holds


def test_contenders_take_turns_on_copies_of_their_inputs() -> None:
    seen: list[str] = []
    calls = {name: [lambda x=f"{name}{i}": seen.append(x) for i in range(2)] for name in "ab"}
    times = take_turns(Clock().bench(), calls, seconds=1e9, rounds=3)
    assert seen[-6:] == ["a0", "b0", "a1", "b1", "a0", "b0"]
    assert [len(each) for each in times.values()] == [3, 3]
    early = take_turns(Clock().bench(), calls, seconds=2, rounds=15)
    assert [len(each) for each in early.values()] == [3, 3]


def test_copies_exceed_every_cache() -> None:
    assert copies_for(2**20) == MOST_COPIES
    assert copies_for(2**30) == 2
    assert copies_for(32 * 2**20) * 32 * 2**20 > 160 * 2**20


@pytest.mark.parametrize("form", ["causal", "window", "documents", "dropped", "alibi", "softcap", "bias", "table"])
def test_rivals_compute_the_same(form: str) -> None:
    case, shape = Case(f32, 16, form=form, lse=False), Shape(2, 2, 2, 40, 40)
    copies = kernels.inputs(case, shape, "cpu", 1)
    (call,) = rivals.flex_calls(Clock().bench(), case, copies)
    q, k, v, *captures = copies[0]
    torch.testing.assert_close(call(), case.reference(q, k, v, tuple(captures))[0])


def test_candidates_are_the_best_that_fit() -> None:
    from attir.cost_model.devices import DEVICES

    prefill = kernels.runners_up(Case(bf16, 128, form="causal", lse=False), 0, DEVICES["sm_90"], 4)
    decode = kernels.runners_up(Case(bf16, 128, group=8, lse=False), 16, DEVICES["sm_90"], 2)
    assert len(set(prefill)) == 4 and all(len(wishes) == 4 for wishes in prefill)
    assert [[name for name, _ in wishes] for wishes in decode] == [["block_n", "num_stages"]] * 2


@pytest.mark.parametrize("each", [p for p in PROBLEMS if p.kind in ("forward", "decode")], ids=lambda p: p.title)
def test_every_candidate_can_be_planned(each: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is only run on a GPU is at least lowered for one here."""
    monkeypatch.setattr(kernels, "current_gpu", lambda: "sm_90")
    rows = rows_for(each.shape.queries, each.case.group)
    wishes = kernels.wishes_for(each.case, rows, "cuda", 1) | {"specialised": () if rows else speed.SPECIALISED}
    assert len(wishes) >= 5
    for wish in wishes.values():
        plan = lower(each.case.module(), "sm_90", rows, wish).plan
        for name, value in wish:
            assert plan.get(name, "") == value or (value == AS_MANY_AS_FIT and plan[name] >= 132)


def test_problems_are_those_that_figures_are_asked_of() -> None:
    kinds = [each.kind for each in PROBLEMS]
    assert kinds[:4] == ["forward", "forward", "decode", "decode"]
    assert all(each.key_bytes >= 300e6 for each in PROBLEMS if each.kind == "decode")
    assert {each.case.form for each in PROBLEMS if each.kind == "variant"} == set(FORMS)
    causal = next(each for each in PROBLEMS if each.case.form == "causal")
    assert causal.flops == pytest.approx(4 * 2 * 32 * 8192 * 8193 / 2 * 128)


def test_figures_compare_with_what_they_say() -> None:
    record = Record.start()
    each = problem("decode", queries=1)
    record.timed = [
        Timed(speed.CEILING, "copy", [2.0], bytes=8e9),
        Timed(each.title, "attir", [1.0], bytes=3e9),
        Timed(each.title, "attir swapped", [0.5], bytes=3e9),
    ]
    (figure,) = table.figures(record, [each])
    assert figure.value == pytest.approx(1.5) and figure.note.startswith("attir swapped")
    assert figure.holds and "| 1 | 2 | yes |" in str(figure)


def test_specialised_warps_are_not_tried_without_a_gpu() -> None:
    assert "GPU" in speed.specialised_problem("cpu")
    assert kernels.problems(large=False)[0][0].dtype in (f16, bf16)
