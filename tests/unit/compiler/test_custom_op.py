"""The custom op reaches the runner of its site, has a fake form, and never loses gradients."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, cast

import pytest
import torch

from attir.compiler.custom_op import attention_op, attir_attention, register_site

Q, K, V = torch.ones(2, 4, 3, 8), torch.ones(2, 2, 5, 8), torch.ones(2, 2, 5, 6)


def runner(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, captures: Sequence[torch.Tensor], want_lse: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    return q.new_full((*q.shape[:3], v.shape[3]), len(captures)), q.new_zeros(q.shape[:3] if want_lse else (0,))


def test_a_call_reaches_its_runner_with_its_captures() -> None:
    out, lse = attention_op()(Q, K, V, [Q, K], register_site(runner), True)
    assert torch.equal(out, torch.full((2, 4, 3, 6), 2.0))
    assert lse.shape == (2, 4, 3)


@pytest.mark.parametrize("want_lse", [False, True])
def test_the_fake_form_has_the_shapes_of_the_real_one(want_lse: bool) -> None:
    site = register_site(runner)
    real = attention_op()(Q, K, V, [], site, want_lse)
    q, k, v = (t.to("meta") for t in (Q, K, V))
    fake = attention_op()(q, k, v, [], site, want_lse)
    assert [(t.shape, t.dtype, t.stride()) for t in fake] == [(t.shape, t.dtype, t.stride()) for t in real]


@pytest.mark.parametrize("position", range(4))
def test_a_missing_gradient_is_an_error(position: int) -> None:
    tensors = [Q, K, V, Q.clone()]
    tensors[position] = tensors[position].clone().requires_grad_()
    q, k, v, capture = tensors
    site = register_site(runner)
    with pytest.raises(RuntimeError, match="has no gradient yet"):
        attention_op()(q, k, v, [capture], site, False)
    with torch.no_grad():
        attention_op()(q, k, v, [capture], site, False)


@pytest.mark.parametrize("position", range(4))
def test_a_negative_that_is_only_promised_is_there_when_a_kernel_reads_memory(position: int) -> None:
    def memory_of(tensor: torch.Tensor) -> float:
        return ctypes.c_float.from_address(tensor.data_ptr()).value

    def reading(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, captures: Sequence[torch.Tensor], want_lse: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.tensor([memory_of(t) for t in (q, k, v, *captures)]), q.new_empty(0)

    negative = torch.complex(Q, Q).conj().imag
    assert negative.is_neg()
    tensors = [Q, K, V, Q]
    tensors[position] = negative
    q, k, v, capture = tensors
    with torch.no_grad():
        out, _ = attention_op()(q, k, v, [capture], register_site(reading), False)
    assert out.tolist() == [-1.0 if i == position else 1.0 for i in range(4)]


def test_a_call_without_the_dispatcher_does_the_same_and_lets_others_see_it() -> None:
    site = register_site(runner)
    with torch.no_grad():
        assert torch.equal(attir_attention(Q, K, V, [Q], site, False)[0], attention_op()(Q, K, V, [Q], site, False)[0])
        with cast(Any, torch).autograd.profiler.profile() as profile:
            attir_attention(Q, K, V, [Q], site, False)
        q, k, v = (t.to("meta") for t in (Q, K, V))
        assert attir_attention(q, k, v, [], site, True)[1].shape == (2, 4, 3)
    assert "attir::attention" in {event.name for event in profile.function_events}
    with pytest.raises(RuntimeError, match="has no gradient yet"):
        attir_attention(Q.clone().requires_grad_(), K, V, [], site, False)


def test_the_op_passes_pytorchs_own_checks() -> None:
    check = cast(Any, torch.library).opcheck
    check(attention_op(), (Q, K, V, [Q], register_site(runner), True), test_utils=("test_schema", "test_faketensor"))
