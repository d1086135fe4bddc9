"""The harness of benchmarks/cpu_attention.py times equal attentions and says what misses a bar; no time is judged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import attir
from attir.compiler.native_support import native_problem
from benchmarks import cpu_attention
from benchmarks.cpu import children, latency, machine, measuring, models, problems, rivals, throughput
from benchmarks.cpu.measuring import Settings
from benchmarks.cpu.problems import FORMS, Decode, Plain, Problem, WrongResultError
from benchmarks.cpu.results import Bar, Row, Section, as_json
from benchmarks.cpu.rivals import FellBackError

if problem := native_problem():
    pytest.skip(f"there is no native code here: {problem}", allow_module_level=True)

ONCE = Settings(quick=True, threads=1, seconds=0)
TINY = Problem("causal", "f32", 16, 40, 2)


@pytest.fixture(autouse=True)
def no_gradients(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As the benchmark runs: without gradients, and with windows and documents that bite on few keys."""
    monkeypatch.setattr(problems, "WINDOW", 7)
    with torch.no_grad():
        yield


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", problems.DTYPES)
def test_all_compute_the_same_attention(form: str, dtype: str) -> None:
    problem = Problem(form, dtype, 16, 40, 2)
    problem.check(rivals.attir_call(problem)(), "attir")
    # Compiling FlexAttention takes seconds, and its result is that of the plain function.
    problem.check(rivals.flex_function(problem)(*problem.inputs[:3]), "FlexAttention")
    if form in throughput.MASKS:
        problem.check(rivals.sdpa_call(problem)(), "SDPA")


@pytest.mark.parametrize("dtype", problems.DTYPES)
@pytest.mark.parametrize("way", [rivals.decode_attir, rivals.decode_folded, rivals.decode_grouped])
def test_all_decode_the_same(way: Callable[[Decode], measuring.Call], dtype: str) -> None:
    problem = Decode(dtype, 16, 50, bytes=24 * 50 * 16 * 8)
    problem.check(way(problem)(), way.__name__)


def test_decode_reads_about_as_many_bytes_as_it_is_told() -> None:
    q, k, _ = Decode("bf16", 64, 128, bytes=20 * 128 * 64 * 4).inputs
    assert k.shape == (5, 4, 128, 64) and q.shape == (5, 32, 1, 64)


@pytest.mark.parametrize("wrong", [float("nan"), 1e-3])
def test_a_wrong_result_ends_the_benchmark(wrong: float) -> None:
    result = rivals.sdpa_call(TINY)()
    result[0, 1, 7, 3] += wrong
    with pytest.raises(WrongResultError, match=r"a kernel on f32 16 40 causal: off by .* that is not rounding"):
        TINY.check(result, "a kernel")


def test_forms_count_the_pairs_that_they_let_through() -> None:
    flops = {form: Problem(form, "f32", 16, 40, 2).flops / (4 * 2 * 16) for form in FORMS}
    assert flops["full"] == 1600 and flops["causal"] == flops["alibi"] == flops["softcap"] == 820
    assert flops["window"] == 7 * 40 - 21
    assert flops["document"] == sum(n * (n + 1) / 2 for n in (8, 4, 12, 16))


@pytest.mark.parametrize("warned", [False, True])
def test_a_flex_that_ran_eagerly_ends_the_benchmark(warned: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def uncompiled(function: Plain, **_: object) -> Plain:
        return function

    monkeypatch.setattr(rivals, "torch_compile", uncompiled)
    # It warns once in a process.
    shown = set[str]() if warned else {"flex_attention_performance"}
    monkeypatch.setattr(rivals.flex, "_WARNINGS_SHOWN", shown)
    with pytest.raises(
        FellBackError, match=r"FlexAttention ran eagerly: " + ("it warns" if warned else "Inductor wrote 0")
    ):
        rivals.flex_call(TINY, 1)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor needs a C++ compiler")
def test_a_compiled_flex_is_known_as_such() -> None:
    TINY.check(rivals.flex_call(TINY, 1)(), "FlexAttention")


def test_an_attention_that_is_not_native_ends_the_benchmark() -> None:
    compiled = attir.compile(FORMS["causal"].plain, backend="interpret")
    compiled(*TINY.inputs)
    with pytest.raises(FellBackError, match=r"expected 1 attentions in native code, but\n(?s:.*) interpret"):
        rivals.require_native(compiled, 1)


def test_rivals_take_turns() -> None:
    order: list[str] = []
    calls = {name: lambda name=name: order.append(name) for name in "abc"}
    times = measuring.interleaved(calls, 1, 0)
    assert "".join(order) == "aabbcc" + "abcbcacababcbca"
    assert all(len(seconds) == measuring.FEWEST_ROUNDS for seconds in times.seconds.values())


def test_times_are_of_as_many_threads_as_asked() -> None:
    before, seen = torch.get_num_threads(), list[int]()
    measuring.interleaved({"a": lambda: seen.append(torch.get_num_threads())}, before + 1, 0)
    assert set(seen) == {before + 1} and torch.get_num_threads() == before


def test_other_processes_in_the_way_are_told() -> None:
    assert measuring.Times({}, others=0.04).note == ""
    assert measuring.Times({}, others=1.02).note == "others kept 1.0 processors busy"


def section_of(*figures: float, bars: tuple[Bar, ...]) -> Section:
    rows = [
        Row({"threads": "1", "N": str(n)}, {"×": figure}, times={"attir": [0.5]}) for n, figure in enumerate(figures)
    ]
    return Section("speed", "how fast", bars, [*rows, Row({"threads": "2"}, {}, note="refused")])


def test_a_table_has_labels_figures_and_notes() -> None:
    assert section_of(1.25, 1234.5, bars=()).table().splitlines() == [
        "| threads | N | × | note |",
        "|---|---|---|---|",
        "| 1 | 0 | 1.25 |  |",
        "| 1 | 1 | 1234 |  |",
        "| 2 |  | – | refused |",
    ]


def test_bars_name_what_misses_them() -> None:
    bars = (Bar("×", 1.05), Bar("×", 2, mean=True), Bar("×", 4, at_least=False), Bar("else", 1))
    each, mean, most, missing = section_of(1, 4, bars=bars).verdicts
    assert str(each) == "FAIL  × ≥ 1.05, everywhere: 1 of 2\n          1 0: 1.00"
    assert str(mean) == "pass  × ≥ 2, geometric mean: 2.00 over 2"
    assert str(most) == "pass  × ≤ 4, everywhere: 2 of 2"
    assert str(missing) == "FAIL  else ≥ 1, everywhere: nothing was measured"


def test_json_has_every_time_a_row_on_a_line() -> None:
    text = as_json({"benchmark": "test"}, [section_of(1.5, 2, bars=(Bar("×", 1.8),)), Section("none", "nothing", ())])
    record = json.loads(text)
    assert record["sections"]["speed"]["rows"][0] == {"threads": "1", "N": "0", "×": 1.5, "seconds": {"attir": [0.5]}}
    assert record["sections"]["speed"]["rows"][2] == {"threads": "2", "note": "refused", "seconds": {}}
    assert record["sections"]["speed"]["bars"][0]["missed"] == {"1 0": 1.5}
    assert sum('"seconds"' in line for line in text.splitlines()) == 3


@pytest.mark.parametrize(("figure", "code"), [(2.0, 0), (1.0, 1)])
def test_a_missed_bar_is_the_exit_code(
    figure: float, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def section(settings: Settings) -> Section:
        assert settings.quick
        return section_of(figure, bars=(Bar("×", 2),))

    monkeypatch.setattr(cpu_attention, "SECTIONS", {"speed": section})
    path = tmp_path / "new" / "times.json"
    assert cpu_attention.main(["--quick", "--json", str(path)]) == code
    assert f"{1 - code} of 1 bars are met" in capsys.readouterr().out
    record = json.loads(path.read_text())
    assert {"cpu", "target", "date", "versions"} <= record["machine"].keys()
    assert record["sections"]["speed"]["bars"][0]["met"] is (code == 0)


def test_speed_sections_hold_every_row_to_the_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    def tiny(quick: bool) -> list[Problem]:
        return [TINY]

    def tiny_decode(quick: bool) -> list[Decode]:
        return [Decode("f32", 16, 50, bytes=1 << 14)]

    def refusing(problem: Problem, threads: int) -> measuring.Call:
        raise NotImplementedError("not for this")

    def small() -> int:
        return 1 << 20

    monkeypatch.setattr(throughput, "plain_problems", tiny)
    monkeypatch.setattr(throughput, "flex_problems", tiny)
    monkeypatch.setattr(throughput, "decode_problems", tiny_decode)
    monkeypatch.setattr(machine, "beyond_caches", small)
    monkeypatch.setattr(machine, "STEPS", 100)
    sections = [throughput.prefill(ONCE), throughput.decode(ONCE)]
    assert [v.count for section in sections for v in section.verdicts] == [1, 1, 1, 1]
    monkeypatch.setattr(rivals, "flex_call", refusing)
    (row,) = throughput.flex(ONCE).rows
    assert row.note == "Flex refuses: not for this" and "× Flex" not in row.figures


def test_the_ceilings_do_what_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "STEPS", 100)
    call = machine.Peak(1).call
    call()
    lanes = machine.CPUS[machine.host_target()].lanes
    count = machine.fma_text(machine.CPUS[machine.host_target()])[1] // (2 * lanes)
    # Every a = 0.5 a + 0.5 has come to 1 by then.
    assert torch.equal(call.keep[0][lanes : 2 * lanes], torch.full((lanes,), float(count)))

    def small() -> int:
        return 10 * machine.CHUNK

    monkeypatch.setattr(machine, "beyond_caches", small)
    for name, way in machine.Reading(2).ways.items():
        result: Any = way()
        total = way.keep[1].sum() if isinstance(way, machine.NativeCall) else result
        assert total.item() == 10 * machine.CHUNK / 4, name


def test_a_variant_is_new_each_time_and_right(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = rivals.torch_compile

    def uncompiled(function: Plain, **options: object) -> Plain:
        return kept(function, **options) if "backend" in options else function

    monkeypatch.setattr(rivals, "torch_compile", uncompiled)
    monkeypatch.setattr(rivals, "require_flex_kernel", lambda: None)
    for variant in latency.VARIANTS:
        seconds = latency.first_calls(variant, 0.126)
        assert seconds.keys() == ({"attir", "Flex"} if variant.flex else {"attir"})


def test_overhead_is_of_what_a_graph_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = rivals.torch_compile

    def only_ours(function: Plain, backend: Any) -> Plain:
        return function if backend == "inductor" else kept(function, backend=backend)

    monkeypatch.setattr(rivals, "torch_compile", only_ours)
    called, calls = latency.overhead_calls(*TINY.inputs[:3])
    assert called == "attir_attention"
    expected = calls["SDPA"]()
    for name, call in calls.items():
        result = call() if name.endswith("compile") or name == "SDPA" else call()[0]
        torch.testing.assert_close(result, expected)


def test_children_tell_of_memory_and_of_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ATTIR_CACHE_DIR", str(tmp_path))
    assert children.reload().keys() == {"first_call", "origin", "object"}
    found = children.memory("decode", "128", "1")
    assert found["scratch"] > 0 and 0 <= found["attir"] < 1 << 24


def test_a_model_decodes_from_the_same_place_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    monkeypatch.setattr(models, "LENGTH", 16)
    monkeypatch.setattr(models, "ROOM", 24)
    whole = models.model()
    step = models.decode_step(whole)
    first, second = step(whole), step(whole)
    assert torch.equal(first, second)
    compiled = attir.compile(whole, backend="native", strict=True)
    problems.check(step(compiled), first.double(), "f32", "attir")
    rivals.require_native(compiled, 4)
    times = models.attention_times({"eager": whole, "attir": compiled}, step)
    assert all(0 < second < 1 for seconds in times.seconds.values() for second in seconds)
