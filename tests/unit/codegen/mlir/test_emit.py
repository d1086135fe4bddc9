"""Kernels as MLIR text: accepted by the real parser, readable, and refused where there is no form."""

from __future__ import annotations

import importlib
import re
from typing import Any

import pytest

from attir.codegen.mlir import NativeModule, emit_module
from attir.compiler.attention_cases import FORMS, Case
from attir.compiler.lowering import lower
from attir.ir.attributes import FloatType, bf16, f16, f32
from attir.ir.diagnostics import CompileError
from attir.ir.location import Location


def emitted(
    case: Case, target: str = "avx512", rows: int = 0, unit_strides: bool = True, split: bool = False
) -> NativeModule:
    wishes = (("split", 1),) if split else ()
    return emit_module(lower(case.module(), target, rows, wishes).kernels, unit_strides=unit_strides)


def verify(text: str) -> None:
    """Fail unless MLIR itself knows every op of `text` and finds nothing wrong with it."""
    mlir: Any = importlib.import_module("torch_mlir.ir")
    with mlir.Context() as context, mlir.Location.unknown(context):
        assert not context.allow_unregistered_dialects
        assert mlir.Module.parse(text).operation.verify()


@pytest.mark.parametrize("dtype", [f32, f16, bf16], ids=str)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("target", ["avx512", "avx2"])
def test_every_form_is_valid_for_the_real_parser(target: str, form: str, dtype: FloatType) -> None:
    verify(emitted(Case(dtype, 40, form=form), target).text)


@pytest.mark.parametrize("rows", [1, 2, 4, 8, 16, 48])
@pytest.mark.parametrize("target", ["avx512", "avx2"])
def test_kernels_that_split_keys_come_with_one_that_merges(target: str, rows: int) -> None:
    module = emitted(Case(bf16, 72, 24, group=4, form="causal"), target, rows, split=True)
    verify(module.text)
    assert [kernel.name for kernel in module.kernels] == ["attention", "attention_merge"]


@pytest.mark.parametrize("rows", [0, 8])
def test_any_strides(rows: int) -> None:
    verify(emitted(Case(f16, 40, form="bias"), "avx512", rows, unit_strides=False).text)


@pytest.mark.parametrize(
    ("target", "vector", "other"), [("avx512", "<16xf32>", "<8xf32>"), ("avx2", "<8xf32>", "<16x")]
)
def test_vectors_have_the_length_of_the_target(target: str, vector: str, other: str) -> None:
    text = emitted(Case(f32, 64, form="softcap"), target).text
    assert vector in text and other not in text


def test_no_function_is_called_from_a_library() -> None:
    for form in FORMS:
        text = emitted(Case(f16, 64, form=form)).text
        programs = {f"attention{name}_program" for name in ("", "_tables", "_list")}
        assert set(re.findall(r"call @(\w+)", text)) <= programs
        # What is left of `math` are single instructions.
        assert set(re.findall(r"\bmath\.\w+", text)) <= {"math.fma", "math.absf", "math.sqrt", "math.copysign"}


def test_comments_lead_back_to_the_model() -> None:
    case = Case(f32, 64, form="alibi", location=Location("model.py", 7, 1))
    text = emitted(case).text
    assert "// One program of 'attention', from model.py:7. Written by attir." in text
    assert "// key tiles that are kept whole" in text and "// scores: " in text


def test_tiles_that_an_opaque_mask_drops_are_skipped() -> None:
    assert "// keeps_some: whether the tile has any" in emitted(Case(f32, 64, form="documents")).text
    assert "keeps_some" not in emitted(Case(f32, 64, form="causal")).text


def test_equal_kernels_have_equal_text() -> None:
    assert emitted(Case(f16, 64, form="causal")) == emitted(Case(f16, 64, form="causal"))


def test_scratch_memory_is_the_size_of_a_few_tiles() -> None:
    for width in (1, 64, 128, 256):
        for dtype in (f32, bf16):
            assert 0 < emitted(Case(dtype, width)).scratch_bytes <= 1 << 20


def test_a_kernel_scheduled_for_a_gpu_is_refused() -> None:
    with pytest.raises(CompileError, match="not scheduled for a CPU"):
        emit_module(lower(Case(f16, 64).module(), "sm_90").kernels)


def test_only_kernels_are_written() -> None:
    with pytest.raises(CompileError, match=r"only 'tile\.kernel' can be written for CPUs"):
        emit_module([Case(f16, 64).module()])
