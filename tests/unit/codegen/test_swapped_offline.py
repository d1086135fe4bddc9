"""Kernels with few rows whose keys are the rows of the products, and persistent ones, compiled without a GPU."""

from __future__ import annotations

import pytest

from attir.compiler.attention_cases import Case
from attir.compiler.kernels import build_kernel
from attir.compiler.offline import OfflineKernel, compile_offline
from attir.ir.attributes import bf16, f16


def compiled(case: Case, **wishes: int | str) -> OfflineKernel:
    return compile_offline(build_kernel(case.module(), "sm_90", wishes=tuple(wishes.items())).triton, "sm_90")


@pytest.mark.parametrize(
    ("width", "rows", "keys", "stages", "descriptors"),
    [(128, 16, 64, 3, "host"), (128, 32, 128, 2, "host"), (64, 32, 64, 3, "host"), (128, 16, 128, 2, "")],
)
def test_few_rows_use_the_instructions_for_64_rows_in_both_products(
    width: int, rows: int, keys: int, stages: int, descriptors: str
) -> None:
    tiles: dict[str, int] = {"block_m": rows, "block_n": keys, "num_warps": 4, "num_stages": stages}
    found = compiled(Case(f16, width), swap=1, descriptors=descriptors, **tiles)
    # One instruction takes 64 rows and 16 of what is summed over: keys by width, then width by keys.
    a_loop = (keys // 64) * (width // 16) + (width // 64) * (keys // 16)
    assert found.matrix_instructions == {"HGMMA": 2 * a_loop}
    assert found.loop_spills == 0
    loads, q_tile, weights = 2 * keys * width * 2 * stages, rows * width * 2, keys * rows * 2
    assert 0 <= found.shared - (loads + q_tile + weights) <= 1024


def test_a_persistent_kernel_spills_nothing_and_its_loops_are_no_longer() -> None:
    tiles: dict[str, int] = {"block_m": 128, "block_n": 128, "num_warps": 8, "num_stages": 2}
    case = Case(bf16, 128, form="causal")
    once, staying = (compiled(case, persistent=p, descriptors="host", **tiles) for p in (0, 132))
    assert staying.spills == 0 and staying.matrix_instructions == once.matrix_instructions
    assert len(staying.loops) == len(once.loops) == 2
    assert all(length <= 1.02 * before for length, before in zip(staying.loops, once.loops, strict=True))


def test_a_kernel_for_decoding_may_stay_as_well() -> None:
    tiles: dict[str, int] = {"block_m": 16, "block_n": 64, "num_warps": 4, "num_stages": 3}
    found = compiled(Case(bf16, 128, group=4), swap=1, persistent=264, folded=1, **tiles)
    assert found.spills == 0 and set(found.matrix_instructions) == {"HGMMA"}
