"""Whole generated kernels, to be read. `pytest tests/unit/codegen --update-golden` rewrites them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from attir.compiler.attention_cases import Case
from attir.compiler.kernels import build_kernel
from attir.ir.attributes import bf16, f16, f32
from benchmarks.emitted.stored import StoredCase

GOLDEN = Path(__file__).parents[2] / "golden"
KERNELS: dict[str, tuple[Case, str]] = {
    "causal_f16_64_sm_90": (Case(f16, 64, form="causal"), "sm_90"),
    "alibi_bf16_80_grouped_sm_80": (Case(bf16, 80, group=4, form="alibi", lse=False), "sm_80"),
    "window_f16_128_gfx942": (Case(f16, 128, form="window"), "gfx942"),
    "softcap_f32_16_interpret": (Case(f32, 16, form="softcap"), "interpret"),
    "documents_f16_64_sm_100": (Case(f16, 64, form="documents"), "sm_100"),
    "int8_f16_64_sm_90": (StoredCase(f16, 64, form="causal", lse=False, scheme="int8"), "sm_90"),
    "kv4_bf16_128_sm_80": (StoredCase(bf16, 128, group=4, lse=False, scheme="kv4"), "sm_80"),
}


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_are_what_was_last_read_and_agreed(name: str, update_golden: bool) -> None:
    case, target = KERNELS[name]
    source, path = build_kernel(case.module(), target).source, GOLDEN / f"{name}.py"
    if update_golden:
        path.write_text(source)
    assert source == path.read_text(), "if the change is wanted: pytest tests/unit/codegen --update-golden"


def test_no_golden_is_left_without_a_kernel() -> None:
    assert {p.stem for p in GOLDEN.glob("*.py")} == set(KERNELS)


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_read_well(name: str) -> None:
    """Lines of at most 100 columns, apart from the launcher's summary, and no name that is assigned and not read."""
    case, target = KERNELS[name]
    source = build_kernel(case.module(), target).source
    body = source[: source.index("def launch(")]
    assert max(map(len, body.splitlines())) <= 100
    kernel = next(n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef) and n.name == "attention")
    names = [n for n in ast.walk(kernel) if isinstance(n, ast.Name)]
    stored = {n.id for n in names if isinstance(n.ctx, ast.Store)}
    read = {n.id for n in names if isinstance(n.ctx, ast.Load)}
    assert stored <= read
    assert {a.arg for a in kernel.args.args} <= read | {"lse_ptr"}
