"""Who computes an attention: attir, SDPA, compiled FlexAttention; each is sure to run as what it is timed as."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, cast

import torch
from torch._dynamo.exc import BackendCompilerFailed
from torch._dynamo.utils import counters
from torch.nn import functional
from torch.nn.attention import flex_attention as flex

import attir

from .measuring import Call
from .problems import FORMS, Decode, Plain, Problem

torch_compile = cast("Callable[..., Plain]", torch.compile)  # pyright: ignore[reportUnknownMemberType]


class FellBackError(SystemExit):
    """A rival, or attir, did not run as what it is timed as; ends the benchmark."""


def forget_everything() -> None:
    """Let Dynamo start anew: after some recompiles of one function it silently runs it eagerly."""
    cast(Any, torch.compiler).reset()


def attir_compiled(plain: Plain, *inputs: torch.Tensor) -> Plain:
    """`plain` with its attention as native code, called once; FellBackError where it is not."""
    forget_everything()
    compiled = attir.compile(plain, backend="native", strict=True)
    compiled(*inputs)
    require_native(compiled, 1)
    return compiled


def require_native(compiled: object, count: int) -> None:
    """FellBackError unless `count` attentions of what attir compiled run as native code, and no other is left."""
    report = attir.explain(compiled)
    if len(report.sites) != count or any(
        s.status != "fused" or not s.backend.startswith("native") for s in report.sites
    ):
        raise FellBackError(f"expected {count} attentions in native code, but\n{report}")


def attir_call(problem: Problem) -> Call:
    inputs = problem.inputs
    compiled = attir_compiled(FORMS[problem.form].plain, *inputs)
    return lambda: compiled(*inputs)


def sdpa_call(problem: Problem) -> Call:
    """For the forms that SDPA has a kernel of its own for."""
    q, k, v = problem.inputs
    causal = {"full": False, "causal": True}[problem.form]
    return lambda: functional.scaled_dot_product_attention(q, k, v, is_causal=causal)


def flex_function(problem: Problem) -> Plain:
    """FlexAttention on q, k and v, not compiled; with a block mask where the form has a mask."""
    form, captures, length = FORMS[problem.form], problem.captures, problem.length
    visible, changed = form.visible, form.changed
    mask = score = None
    if visible is not None:

        def mask_mod(b: torch.Tensor, h: torch.Tensor, m: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
            return visible(m, n, captures)

        mask = flex.create_block_mask(mask_mod, None, None, length, length, device="cpu")
    if changed is not None:

        def score_mod(
            s: torch.Tensor, b: torch.Tensor, h: torch.Tensor, m: torch.Tensor, n: torch.Tensor
        ) -> torch.Tensor:
            return changed(s, h, m, n, captures)

        score = score_mod

    def function(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        result = flex.flex_attention(q, k, v, score_mod=score, block_mask=mask)
        assert isinstance(result, torch.Tensor)
        return result

    return function


def flex_call(problem: Problem, threads: int) -> Call:
    """FlexAttention compiled for so many threads; NotImplementedError where Inductor refuses.

    Inductor writes the number of threads into its C++, so each has a compilation of its own.
    """
    q, k, v = problem.inputs[:3]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        compiled = flex_compiled(flex_function(problem), q, k, v)
    finally:
        torch.set_num_threads(before)
    return lambda: compiled(q, k, v)


def flex_compiled(function: Plain, *inputs: torch.Tensor) -> Plain:
    """`function` by Inductor for these sizes alone, called once; FellBackError where it ran eagerly."""
    forget_everything()
    counters.clear()
    compiled = torch_compile(function, dynamic=False, fullgraph=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            compiled(*inputs)
        except BackendCompilerFailed as problem:
            raise NotImplementedError(_first_line(problem)) from problem
    if any("without torch.compile" in str(warning.message) for warning in caught):
        raise FellBackError("FlexAttention ran eagerly: it warns that it was not compiled")
    require_flex_kernel()
    return compiled


def require_flex_kernel() -> None:
    """FellBackError unless Inductor wrote one kernel of FlexAttention since its counters were cleared."""
    written = counters["inductor"]["cpp_templated_kernel_counter"]
    if written != 1:
        raise FellBackError(f"FlexAttention ran eagerly: Inductor wrote {written} kernels for it, expected 1")


def _first_line(problem: BaseException) -> str:
    """What went wrong first, without a traceback."""
    while problem.__cause__ is not None:
        problem = problem.__cause__
    return f"{type(problem).__name__}: {str(problem).strip().splitlines()[0]}"[:160]


def decode_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """One query each for all heads of a group."""
    return functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)


def decode_attir(problem: Decode) -> Call:
    inputs = problem.inputs
    compiled = attir_compiled(decode_attention, *inputs)
    return lambda: compiled(*inputs)


def decode_folded(problem: Decode) -> Call:
    """SDPA with the heads of a group as rows of one: it reads every key once, the most that it can do."""
    _, k, v = problem.inputs
    q = problem.folded_query
    return lambda: functional.scaled_dot_product_attention(q, k, v)


def decode_grouped(problem: Decode) -> Call:
    """SDPA as models call it."""
    return lambda: decode_attention(*problem.inputs)
