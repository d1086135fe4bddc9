"""Triton kernels that go through lists: right in the interpreter, compiled for GPUs that need not be there."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from attir.compiler.attention_cases import Shape
from attir.compiler.kernels import compile_site
from attir.compiler.options import Options
from attir.ir.attributes import f16, f32
from benchmarks.emitted.compiled import compiled
from benchmarks.mask_families import MaskCase

from .rows import Row, Settings

FORMS = ("documents", "block table", "2-d neighbourhood")
TARGETS = ("sm_80", "sm_90")
UNIT, WIDTH, SMALL = 64, 64, 16
LARGEST_ERROR = 1e-5
"""Of f32 inputs about 1, against float64."""


def emitted(settings: Settings) -> Iterator[Row]:
    """Kernels with lists, and the order in which their programs start."""
    for form in FORMS[:1] if settings.quick else FORMS:
        yield _interpreted(form)
        for target in TARGETS:
            yield _compiled(form, target)


def _interpreted(form: str) -> Row:
    case = MaskCase(f32, SMALL, form=form, group=2, unit=32)
    q, k, v, captures = case.tensors(Shape(2, 4, 2, 70, 90))
    site = compile_site(case.module(), Options(backend="interpret"))
    out, _ = site.runner(q, k, v, captures, True)
    exact, _ = case.reference(q.double(), k.double(), v.double(), captures)
    error = (out - exact).abs().max().item()
    return Row(
        f"{form}, lists in Triton's interpreter", {"error": error}, f"error < {LARGEST_ERROR:g}",
        error < LARGEST_ERROR and bool(torch.isfinite(out).all()),
    )  # fmt: skip


def _compiled(form: str, target: str) -> Row:
    found = compiled(MaskCase(f16, WIDTH, form=form, unit=UNIT), target)
    spills = sum(kernel.spills or 0 for kernel in found.machine)
    figures = {
        "kernels": " ".join(found.roles), "tile": found.tile, "registers": found.main.registers, "spills": spills
    }  # fmt: skip
    held = spills == 0 and "list" in found.roles
    return Row(f"{form}, lists for {target}", figures, "no spill", held)
