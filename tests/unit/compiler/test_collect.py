"""`attir tune --collect`: a few real measurements; runs that were stopped go on; problems are the same each time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from attir.compiler import collect_command, kernels
from attir.compiler.attention_cases import FORMS, OTHER_FORMS, Case, Shape
from attir.compiler.collect_again import Again
from attir.compiler.collect_command import BOUNDS, Collection, check_same, header_for, run
from attir.compiler.collected_kernels import CpuPlace, GpuPlace, TimedKernel, candidates, chosen
from attir.compiler.lowering import lower
from attir.compiler.native_support import native_problem
from attir.compiler.site_plans import wishes_of
from attir.compiler.tuning_problems import (
    FORM_DECKS,
    Scale,
    TuningProblem,
    case_of,
    families,
    fields_of,
    problems_of,
    queries_of,
    shape_of,
    tensors_of,
)
from attir.cost_model.cpus import CPUS
from attir.cost_model.dataset import Section, TimeRecord, Writer, read_sections, read_times, rewrite
from attir.cost_model.families import DECODE, FEW, REGIMES, Family, held_out
from attir.cost_model.problem import Sizes
from attir.cost_model.schedule import Schedule
from attir.ir.attributes import f32
from attir.ir.core import Operation
from attir.ir.diagnostics import CompileError

needs_native = pytest.mark.skipif(bool(native_problem()), reason="native kernels do not run here")
SMALL = Family("f32", 32, 32, 1, "prefill", "causal")
DECODING = Family("f32", 32, 32, 2, "decode", "none")
TINY = 1e-4
"""Seconds for each measurement."""


@pytest.fixture
def two_families(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two families, each at its two shortest sizes."""

    def found(_: int) -> Iterator[Family]:
        return iter([SMALL, DECODING])

    def shortest(family: Family, scale: Scale) -> list[TuningProblem]:
        return [TuningProblem(family, problem.sizes) for problem in problems_of(family, scale)][:2]

    monkeypatch.setattr(collect_command, "families", found)
    monkeypatch.setattr(collect_command, "problems_of", shortest)


def collection(path: Path) -> Collection:
    place = CpuPlace()
    return Collection(place, Writer(path, header_for(place, 0)), kernels=2, each=TINY)


def times(path: Path) -> list[TimeRecord]:
    return read_times(path)


def any_kernel(module: Operation) -> TimedKernel:
    """A kernel for any number of rows."""
    lanes = CPUS[CpuPlace().target].lanes
    schedule = Schedule(lanes, 32, 1, 1, target=CpuPlace().target, lanes=lanes, columns=4, edge_n=16)
    return CpuPlace().kernel(module, 0, schedule)


# --- collecting


@needs_native
def test_collection_measures_each_problem_with_several_schedules(tmp_path: Path, two_families: None) -> None:
    path = tmp_path / "times.jsonl.gz"
    assert collection(path).run(100, 60.0)
    found = times(path)
    assert len(found) == 8 and len({(r.family, r.sizes, r.schedule) for r in found}) == 8
    assert {r.family for r in found} == {SMALL.name, DECODING.name}
    for record in found:
        assert record.seconds > 0 and record.machine > 0 and record.rounds >= 1
        assert record.seconds == pytest.approx(record.ratio * record.reference, rel=1e-3)
        assert record.case == fields_of(Family.parse(record.family))
        assert record.schedule.target == CpuPlace().target
        assert bool(record.rows) == (record.family == DECODING.name)
    # The first of each problem is the reference.
    assert [record.ratio for record in found[::2]] == [1.0] * 4


@needs_native
def test_a_second_run_measures_only_what_is_missing(
    tmp_path: Path, two_families: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, asked = tmp_path / "times.jsonl.gz", list[str]()
    assert collection(path).run(2, 60.0)
    first = times(path)
    assert len(first) == 2
    measure = collect_command.measure

    def listening(problem: TuningProblem, *rest: Any) -> Any:
        asked.append(str(problem.sizes))
        return measure(problem, *rest)

    monkeypatch.setattr(collect_command, "measure", listening)
    again = collection(path)
    assert again.kept == 2 and again.run(8, 60.0)
    assert len(asked) == 3 and str(first[0].sizes) not in asked[:1]
    assert times(path)[:2] == first and len(times(path)) == 8
    assert collection(path).run(8, 60.0) and len(asked) == 3


@needs_native
def test_an_interrupted_run_keeps_what_it_measured(
    tmp_path: Path, two_families: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, left = tmp_path / "times.jsonl.gz", iter([True])
    measure = collect_command.measure

    def interrupted(*arguments: Any) -> Any:
        if not next(left, False):
            raise KeyboardInterrupt
        return measure(*arguments)

    monkeypatch.setattr(collect_command, "measure", interrupted)
    monkeypatch.setattr(collect_command, "Collection", partial(Collection, kernels=2, each=TINY))
    assert run(["--collect", "--cpu", "--count", "8", "--out", str(path)]) == 130
    first = times(path)
    assert len(first) == 2 and "stopped; 2 measurements are in" in capsys.readouterr().err
    monkeypatch.setattr(collect_command, "measure", measure)
    assert run(["--collect", "--count", "4", "--out", str(path)]) == 0
    assert times(path)[:2] == first and len(times(path)) == 4
    assert "| 2 of" not in capsys.readouterr().out


@needs_native
def test_a_run_ends_when_its_time_is_over(tmp_path: Path, two_families: None) -> None:
    found = collection(tmp_path / "times.jsonl.gz")
    assert not found.run(100, 0.0) and found.kept == 0


@needs_native
def test_times_that_are_shorter_another_time_count(tmp_path: Path, two_families: None) -> None:
    path = tmp_path / "times.jsonl.gz"
    collection(path).run(4, 60.0)
    first = times(path)
    (section,) = read_sections(path)
    disturbed = [replace(r, seconds=100 * r.seconds, reference=100 * r.reference) for r in first[:2]]
    undisturbed = [replace(r, seconds=r.seconds / 100, reference=r.reference / 100) for r in first[2:]]
    rewrite(path, [Section(section.header, [*disturbed, *undisturbed])])
    again = Again(CpuPlace(), path, each=TINY)
    assert again.run(60.0) and (again.problems, again.shorter) == (2, 1)
    found = times(path)
    assert [r.seconds for r in found[2:]] == pytest.approx([r.seconds for r in undisturbed], rel=1e-3)
    for record, before in zip(found[:2], first[:2], strict=True):
        assert record.reference < 10 * before.reference and record.ratio == before.ratio
        assert record.seconds == pytest.approx(record.ratio * record.reference, rel=1e-3)
    assert read_sections(path)[0].header.command == f"{section.header.command}, --again"


@needs_native
def test_without_time_nothing_is_measured_again_and_nothing_lost(tmp_path: Path, two_families: None) -> None:
    path = tmp_path / "times.jsonl.gz"
    collection(path).run(2, 60.0)
    before, again = times(path), Again(CpuPlace(), path)
    assert not again.run(-1.0) and again.problems == 0 and times(path) == before


@needs_native
def test_kernels_that_compute_something_else_are_refused() -> None:
    problem = TuningProblem(SMALL, Sizes(1, 1, 1, 64, 64))
    kernel = any_kernel(case_of(SMALL).module())
    call = kernel.call(tensors_of(SMALL, problem.sizes))

    def wrong() -> object:
        out, *_ = cast("tuple[torch.Tensor, ...]", call())
        return (out + 0.1,)

    check_same(problem, [kernel, kernel], {"0": call, "1": call})
    with pytest.raises(CompileError, match=r"differ by .* of which roundings explain 1e-03"):
        check_same(problem, [kernel, kernel], {"0": call, "1": wrong})


FEW_ROWS = Family("bf16", 40, 40, 4, FEW, "dropped")


@needs_native
@pytest.mark.parametrize("family", [SMALL, DECODING, FEW_ROWS], ids=lambda f: f.name)
def test_kernels_have_the_schedules_that_were_asked_for(family: Family) -> None:
    place, module, sizes = CpuPlace(), case_of(family).module(), problems_of(family)[0].sizes
    rows = place.rows(sizes.queries, family.group)
    ranked = candidates(place, module, rows, sizes)
    assert len(ranked) > 20 and len(set(ranked)) == len(ranked)
    for schedule in chosen(ranked, 3, "any"):
        assert replace(place.kernel(module, rows, schedule).schedule, reason="") == schedule


@pytest.mark.parametrize("family", [SMALL, DECODING, FEW_ROWS], ids=lambda f: f.name)
def test_schedules_for_a_gpu_can_be_planned_without_one(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is only run on a GPU is at least lowered for one here."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(kernels, "current_gpu", lambda: "sm_90")
    family = replace(family, dtype="bf16")
    place, module, sizes = GpuPlace(), case_of(family).module(), problems_of(family, GpuPlace.scale)[-1].sizes
    assert sizes.batch * sizes.heads * sizes.keys > 1000 and place.target == "sm_90"
    rows = place.rows(sizes.queries, family.group)
    found = chosen(candidates(place, module, rows, sizes), 4, "any")
    for schedule in found:
        planned = Schedule(**lower(module, "sm_90", rows, wishes_of(schedule)).plan)
        assert replace(planned, reason="") == schedule


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_is_asked_for_where_there_is_none() -> None:
    with pytest.raises(CompileError, match="times of a GPU need one, but PyTorch finds no CUDA device"):
        run(["--collect", "--gpu"])
    with pytest.raises(CompileError):
        GpuPlace()


@pytest.mark.parametrize("wrong", [["--count", "0"], ["--seconds", "-1"]])
def test_numbers_must_be_positive(wrong: list[str]) -> None:
    with pytest.raises(CompileError, match="--count and --seconds must be positive"):
        run(["--collect", *wrong])


def schedules(count: int) -> list[Schedule]:
    return [Schedule(16, 16 * (n + 1), 1, 1) for n in range(count)]


def test_schedules_are_the_first_two_good_ones_and_any() -> None:
    ranked = schedules(60)
    found = chosen(ranked, 12, "a")
    assert found[:2] == ranked[:2] and len(found) == len(set(found)) == 12
    assert sum(ranked.index(schedule) < 20 for schedule in found) >= 6
    assert any(ranked.index(schedule) >= 20 for schedule in found)
    assert chosen(ranked, 12, "a") == found != chosen(ranked, 12, "b")
    assert sorted(chosen(schedules(3), 12, "a"), key=str) == sorted(schedules(3), key=str)


# --- problems


def some(count: int, seed: int = 0) -> Sequence[Family]:
    return list(itertools.islice(families(seed), count))


def test_families_are_the_same_each_time_and_cover_everything() -> None:
    found = some(200)
    assert found == some(200) and found != some(200, seed=1) and len(set(found)) == 200
    assert {f.regime for f in found} == set(REGIMES)
    assert {f.form for f in found} == {form for deck in FORM_DECKS.values() for form in deck}
    assert {f.form for f in found} <= FORMS.keys() | OTHER_FORMS.keys()
    assert {f.width for f in found} == {32, 40, 64, 80, 96, 128, 192, 256}
    assert {f.dtype for f in found} == set(BOUNDS) and {f.group for f in found} == {1, 2, 4, 8}
    assert any(f.value_width != f.width for f in found)


def test_a_part_of_the_families_is_held_out_with_whole_forms_and_widths() -> None:
    found = some(500)
    share = sum(map(held_out, found)) / len(found)
    assert 0.18 < share < 0.28
    trained = [family for family in found if not held_out(family)]
    assert not any(f.width == 96 or f.group == 8 or "softcap" in f.form or f.form == "window512" for f in trained)
    assert len({f.form for f in trained}) == len({f.form for f in found}) - 3
    assert [held_out(f.name) for f in found] == [held_out(f) for f in found]


@pytest.mark.parametrize("family", some(60), ids=lambda f: f.name)
def test_problems_are_within_limits_and_the_same_each_time(family: Family) -> None:
    assert Family.parse(family.name) == family
    found = problems_of(family)
    assert found and found == problems_of(family) and len({p.key for p in found}) == len(found)
    for sizes in (problem.sizes for problem in found):
        assert sizes.group == family.group and 64 <= sizes.keys <= 32768
        assert sizes.queries == (1 if family.regime == DECODE else queries_of(family) or sizes.keys)


def test_names_that_are_none_are_refused() -> None:
    for name in ("", "f32 D64 g1 training: causal", "f32 D64: causal"):
        with pytest.raises(CompileError, match="a family is named such as"):
            Family.parse(name)


@needs_native
@pytest.mark.parametrize("form", OTHER_FORMS)
def test_forms_that_are_only_measured_are_right_too(form: str) -> None:
    case, shape = Case(f32, 32, form=form, lse=False), Shape(2, 2, 2, 300, 300)
    kernel = any_kernel(case.module())
    q, k, v, captures = case.tensors(shape)
    out, _ = kernel.runner(q, k, v, captures, False)
    exact, _ = case.reference(q.double(), k.double(), v.double(), captures)
    plain, _ = case.reference(q, k, v, captures)
    error, plain_error = ((x.double() - exact).abs().max().item() for x in (out, plain))
    assert error <= 2 * plain_error + 2 * 2.0**-24 * v.abs().max().item()


def test_captures_are_like_those_of_models() -> None:
    sizes = Sizes(2, 4, 4, 64, 64)
    *_, (ids,) = tensors_of(Family("f32", 32, 32, 1, "prefill", "documents"), sizes)
    assert bool((ids.diff(dim=-1) >= 0).all())
    *_, (kept,) = tensors_of(Family("f32", 32, 32, 1, "prefill", "dropped"), sizes)
    assert kept.shape == (2, 1, 1, 64) and bool(kept[..., :48].all()) and not bool(kept[..., 48:].any())
    assert shape_of(sizes) == Shape(2, 4, 4, 64, 64)


def test_timed_kernels_are_called_on_the_same_tensors() -> None:
    seen: list[Any] = []

    def runner(*arguments: Any) -> tuple[torch.Tensor, Any]:
        seen.append(arguments)
        return torch.zeros(1), None

    x = torch.zeros(1)
    call = TimedKernel(Schedule(16, 16, 1, 1), runner).call((x, x, x, (x,)))
    call()
    call()
    assert seen[0] == seen[1] == (x, x, x, (x,), False)
