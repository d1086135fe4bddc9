"""Which calls go to the kernel in Gluon, and that others run as ever; the kernel itself is a stand-in here."""

from __future__ import annotations

import pytest
import torch
from numeric.closeness import assert_agrees

from attir.compiler.attention_cases import Case, Shape
from attir.compiler.gluon_runtime import GluonRunner, gluon_site
from attir.compiler.kernels import compile_site
from attir.compiler.options import Options
from attir.compiler.triton_runtime import TritonRunner, triton_site
from attir.ir.attributes import f16
from attir.ir.diagnostics import CompileError

CASE = Case(f16, 64, form="causal")


def runner() -> tuple[GluonRunner, list[tuple[int, ...]]]:
    calls: list[tuple[int, ...]] = []

    def launch(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, lse: torch.Tensor) -> None:
        calls.append(tuple(q.shape))
        found, sums = CASE.reference(q.float(), k.float(), v.float(), ())
        out.copy_(found)
        lse.copy_(sums)

    inner = triton_site(CASE.module(), "interpret").runner
    assert isinstance(inner, TritonRunner)
    return GluonRunner(inner, launch), calls


@pytest.mark.parametrize(("queries", "keys", "there"), [(129, 129, True), (128, 128, False), (1, 64, False)])
def test_many_queries_go_to_gluon(queries: int, keys: int, there: bool) -> None:
    run, calls = runner()
    assert_agrees(CASE, run, *CASE.tensors(Shape(1, 2, 2, queries, keys)))
    assert bool(calls) is there


def test_tensors_that_no_descriptor_can_stand_for_do_not() -> None:
    run, calls = runner()
    q, k, v, captures = CASE.tensors(Shape(1, 2, 2, 130, 130))
    assert_agrees(CASE, run, q, k.transpose(2, 3).contiguous().transpose(2, 3), v, captures)
    assert_agrees(CASE, run, q, k[:, :1].expand_as(k), v, captures)
    assert not calls


def test_positions_may_come_first_in_memory() -> None:
    run, calls = runner()
    q, k, v, _ = CASE.tensors(Shape(2, 2, 2, 130, 140))
    out, _ = run.with_positions_first()(q, k, v, (), False)
    assert out.transpose(1, 2).is_contiguous() and calls
    assert torch.equal(out, run(q, k, v, (), False)[0])


def test_wrong_tensors_are_refused_before_any_kernel_starts() -> None:
    run, calls = runner()
    q, k, v, _ = CASE.tensors(Shape(1, 2, 2, 130, 130))
    with pytest.raises(CompileError):
        run(q, k, v[:, :, :100], (), False)
    assert not calls


def test_only_hopper_has_such_kernels() -> None:
    options = Options(backend="interpret", backend_options={"gluon": True})
    with pytest.raises(CompileError, match="Gluon kernels are for sm_90, but this one is for 'interpret'"):
        compile_site(CASE.module(), options)


def test_an_attention_without_a_kernel_in_gluon_is_refused_in_words() -> None:
    with pytest.raises(CompileError, match="there is no Gluon kernel for this attention"):
        gluon_site(Case(f16, 64, form="alibi").module(), "sm_90")
