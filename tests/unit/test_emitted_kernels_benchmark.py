"""The bars of emitted kernels: a small part compiled for real, without a GPU, and how the table counts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from attir.compiler.attention_cases import Case
from attir.ir.attributes import bf16, f16, f32
from attir.ir.diagnostics import CompileError
from benchmarks.emitted import bars
from benchmarks.emitted.arithmetic import library_operations, loop_arithmetic
from benchmarks.emitted.compiled import Wishes, bulk_loads, compiled, matrix_instructions
from benchmarks.emitted_kernels import main

TILE: Wishes = bars.TILE


@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
@pytest.mark.parametrize(("width", "form"), [(64, "causal"), (80, "none")])
def test_kernels_of_the_standard_table_meet_their_bar(target: str, width: int, form: str) -> None:
    row = (bars.ampere_row if target == "sm_80" else bars.hopper_row)(width, [f16], [form])
    assert row.holds, row


def test_the_tile_that_all_is_compared_with_meets_its_bars() -> None:
    kernel = bars.tile(f16, 128)
    instructions, registers = bars.LIMITS[128]
    assert len(kernel.full.machine) <= instructions and kernel.main.registers <= registers
    assert matrix_instructions(kernel, kernel.full.written) == kernel.full.machine.matrix_instructions == 16
    assert bulk_loads(kernel.full.written) == kernel.full.machine.opcodes["UTMALDG"] == 2


def test_loops_are_paired_with_the_ir_they_came_from() -> None:
    """A window has keys that it cuts on both sides of those it keeps whole: the loop between is the plain one."""
    plain, window = bars.tile(f16, 128), bars.tile(f16, 128, "window")
    assert len(window.pairs) == 3 and window.full is not window.pairs[0]
    lengths = len(window.full.machine), len(plain.full.machine)
    assert abs(lengths[0] - lengths[1]) <= bars.SAME * lengths[1]
    assert all(len(pair.machine) > len(plain.full.machine) for pair in window.partial)


def test_own_arithmetic_is_counted_on_the_tile_ir() -> None:
    """ALiBi on 64 scores a thread: n - m, to float, scale, multiply-add; and 32 positions of keys."""
    plain, alibi = (compiled(Case(f16, 128, form=form, lse=False), "sm_90", 0, TILE) for form in ("none", "alibi"))
    own = loop_arithmetic(alibi.full.written, 8) - loop_arithmetic(plain.full.written, 8)
    assert 64 * 3 <= own <= 64 * 4 + 36


def test_library_functions_count_their_operations() -> None:
    """A multiply, 2 to a power, a sum, a root, its square, and a multiply-add."""
    assert library_operations("tanh_of_cap") == 6


@pytest.mark.parametrize(
    ("target", "case", "rows", "wishes"),
    [
        ("sm_90", Case(bf16, 128, lse=False), 0, ()),
        ("sm_90", Case(f16, 128, form="bias", lse=False), 0, ()),
        ("sm_90", Case(f16, 72, form="bias", lse=False), 0, (("descriptors", ""), ("num_stages", 3))),
        ("sm_90", Case(f16, 96, value_width=64, lse=False), 0, (("descriptors", "host"),)),
        ("sm_90", Case(f32, 64, lse=False), 0, ()),
        ("sm_90", Case(f32, 32, lse=False), 0, (("descriptors", ""),)),
        ("sm_90", Case(bf16, 128, group=8, lse=False), 8, ()),
        ("sm_90", Case(f16, 64, group=8, lse=False), 8, (("swap", 1), ("block_n", 64))),
        ("sm_90", Case(f16, 64, lse=False), 0, bars.SPECIALISED),
        ("sm_90", Case(f16, 128, group=8, form="dropped", lse=False), 8, ()),
        ("sm_80", Case(f16, 128, lse=False), 0, ()),
        ("sm_80", Case(f16, 64, form="bias", lse=False), 0, ()),
        ("sm_80", Case(f16, 128, group=8, lse=False), 8, ()),
        ("sm_80", Case(f32, 128, lse=False), 0, ()),
    ],
    ids=lambda x: f"{x.form}-{x.dtype.name}-{x.width}" if isinstance(x, Case) else None,
)
def test_shared_memory_is_predicted(target: str, case: Case, rows: int, wishes: Wishes) -> None:
    kernel = compiled(case, target, rows, wishes)
    assert kernel.predicted is not None
    assert abs(kernel.predicted - kernel.shared) <= bars.SHARED_MEMORY_LIMIT


def test_what_does_not_fit_is_refused_before_compiling() -> None:
    row = bars.refused_row()
    assert row.holds, row
    with pytest.raises(CompileError, match=r"\d+ bytes of shared memory, of 232448"):
        compiled(Case(f16, 128, lse=False), "sm_90", 0, bars.TOO_LARGE)


def test_a_missed_bar_fails_and_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept, missed = bars.Row("spills", "0", "0", holds=True), bars.Row("loop", "<= 500", "501", holds=False)
    file = tmp_path / "rows.json"
    for rows, code in (([kept], 0), ([kept, missed], 1)):

        def table(*, quick: bool, rows: Sequence[bars.Row] = rows) -> Iterator[bars.Row]:
            assert quick
            return iter(rows)

        monkeypatch.setattr("benchmarks.emitted_kernels.rows", table)
        assert main(["--quick", "--json", str(file)]) == code
    assert "| loop | <= 500 | 501 | NO |" in capsys.readouterr().out
    record = json.loads(file.read_text())
    assert record["triton"] and record["date"] and [row["holds"] for row in record["rows"]] == [True, False]
