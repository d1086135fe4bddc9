"""The harness of benchmarks/sparsity.py counts, compares and judges what it says; no time is judged."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from attir.compiler.attention_cases import Shape
from attir.compiler.native_support import native_problem
from attir.ir.attributes import f32
from benchmarks import sparsity
from benchmarks.sparse import static_rows
from benchmarks.sparse.masks import GRID, Fractions, SparseCase, block_table, static_masks
from benchmarks.sparse.rows import Row, Settings

if problem := native_problem():
    pytest.skip(f"there is no native code here: {problem}", allow_module_level=True)

TINY = Settings(quick=True, seconds=0, lengths=(256,))


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    """As the benchmark runs."""
    with torch.no_grad():
        yield


@pytest.mark.parametrize("name", static_masks(256))
def test_region_code_and_tensor_code_are_one_mask(name: str) -> None:
    case = SparseCase(f32, 16, lse=False, mask=static_masks(256)[name])
    shape = Shape(1, 1, 1, 256, 256)
    q, k, v, captures = case.tensors(shape)
    out, _ = static_rows.runner(case)(q, k, v, captures, False)
    assert static_rows.last_rows_error(case, (q, k, v), captures, out) < 1e-6
    exact, _ = case.reference(q.double(), k.double(), v.double(), captures)
    assert (out - exact).abs().max() < 1e-6


def test_fractions_are_counted_by_tiles() -> None:
    """Of 8 causal positions in tiles of 4 by 2: 36 pairs are kept; the tiles of the first rows are 2, then 4."""
    found = Fractions.of(lambda m, n: n <= m, 8, 4, 2)
    assert found == Fractions(36 / 64, 4 * 2 * (2 + 4) / 64)


def test_a_table_keeps_its_part_of_every_row_and_differs_between_heads() -> None:
    form = block_table(0.25)
    (table,) = form.capture(Shape(1, 2, 2, 640, 640), torch.Generator().manual_seed(0))
    assert table.shape == (1, 2, 10, 10) and (table.sum(-1) == 2).all()
    assert not torch.equal(table[0, 0], table[0, 1])


def test_rows_without_a_mask_beside_rows_with_one() -> None:
    rows = list(static_rows.static(TINY))
    assert len(rows) == sum(not name.startswith(GRID) for name in static_masks(256)) == 4
    for row in rows:
        assert 0 < float(row.figures["kept"]) <= float(row.figures["live"]) <= 1
        assert row.held is not None and set(row.times) == {"dense", "masked"}
    (given,) = static_rows.given_lists(TINY)
    assert given.figures["kept"] == pytest.approx(0.25)


def test_flex_attention_is_given_the_same_problem() -> None:
    """Compiling it takes seconds, and its result is that of the plain function."""
    case = SparseCase(f32, 16, lse=False, mask=static_masks(256)["16 documents"])
    q, k, v, captures = case.tensors(Shape(1, 1, 1, 256, 256))
    with warnings.catch_warnings():
        # PyTorch says once in a process that it was not compiled.
        warnings.simplefilter("ignore", UserWarning)
        out = static_rows.flex_plain(case.mask, captures, 256)(q, k, v)
    assert static_rows.last_rows_error(case, (q, k, v), captures, out) < 1e-6


def test_the_command_prints_writes_and_judges(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def rows(settings: Settings) -> list[Row]:
        return [Row("first", {"x": 0.5}, ">= 1", False, "why"), Row("second", {"y": "told"})]

    def others(settings: Settings) -> list[Row]:
        return [Row("third", {}, "no spill", True)]

    monkeypatch.setattr(sparsity, "GROUPS", {"one": rows, "two": others})
    file = tmp_path / "figures.json"
    assert sparsity.main(["--quick", "--json", str(file)]) == 1
    printed = capsys.readouterr().out
    assert "FAIL | first | x 0.5 | >= 1 | why" in printed and "1 of 2 bars are held" in printed
    record = json.loads(file.read_text())
    assert record["groups"]["one"][0] == {"what": "first", "figures": {"x": 0.5}, "bar": ">= 1", "held": False,
                                          "note": "why", "times": {}}  # fmt: skip
    assert sparsity.main(["--only", "two"]) == 0


def test_kernels_with_lists_are_right_in_the_interpreter_and_fit_gpus() -> None:
    rows = list(sparsity.GROUPS["emitted"](TINY))
    assert [row.held for row in rows] == [True, True, True], "\n".join(map(str, rows))
