"""The others: SDPA with each of its backends, and FlexAttention compiled as its users write it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, flex_attention, sdpa_kernel

from attir.compiler.attention_cases import Case
from benchmarks.gpu.bench import Bench, Call
from benchmarks.gpu.problems import LISTED_WINDOW

BACKENDS = {
    "sdpa flash": SDPBackend.FLASH_ATTENTION,
    "sdpa cudnn": SDPBackend.CUDNN_ATTENTION,
    "sdpa efficient": SDPBackend.EFFICIENT_ATTENTION,
}
SDPA_FORMS = ("none", "causal")
Inputs = Sequence[torch.Tensor]
MaskRule = Callable[[Any, Any, Any, Any], Any]
ScoreRule = Callable[[Any, Any, Any, Any, Any], Any]


def sdpa_calls(case: Case, copies: Sequence[Inputs]) -> dict[str, list[Call]]:
    """One call for each copy of the inputs, by backend; nothing for forms that SDPA has no flag for."""
    if case.form not in SDPA_FORMS:
        return {}
    return {name: [_sdpa(backend, case, inputs) for inputs in copies] for name, backend in BACKENDS.items()}


def _sdpa(backend: SDPBackend, case: Case, inputs: Inputs) -> Call:
    q, k, v, *_ = inputs

    def call() -> Any:
        with sdpa_kernel(backend):
            return functional.scaled_dot_product_attention(
                q, k, v, is_causal=case.form == "causal", enable_gqa=case.group > 1
            )

    return call


def flex_calls(bench: Bench, case: Case, copies: Sequence[Inputs]) -> list[Call]:
    """One call for each copy; the block mask is made once a copy, as a model would over its layers."""
    cast("Any", torch)._dynamo.reset()  # after some variants it would silently run uncompiled
    flexible = bench.compiled(flex_attention.flex_attention)
    return [_flex(flexible, case, inputs, bench.device) for inputs in copies]


def _flex(flexible: Callable[..., Any], case: Case, inputs: Inputs, device: str) -> Call:
    q, k, v, *captures = inputs
    rule = mask_rules(captures).get(case.form)
    block_mask: Any = None
    if rule is not None:
        batch = q.shape[0] if captures else None
        block_mask = cast("Any", flex_attention).create_block_mask(
            rule, batch, None, q.shape[2], k.shape[2], device=device
        )
    score = score_rules(captures).get(case.form)
    return lambda: flexible(q, k, v, score_mod=score, block_mask=block_mask, enable_gqa=case.group > 1)


def mask_rules(captures: Sequence[torch.Tensor]) -> Mapping[str, MaskRule]:
    """Which keys each query sees, by form."""
    return {
        "causal": lambda b, h, m, n: n <= m,
        "window": lambda b, h, m, n: (n <= m) & (n > m - LISTED_WINDOW),
        "documents": lambda b, h, m, n: captures[0][b, m] == captures[0][b, n],
        "dropped": lambda b, h, m, n: captures[0][b, 0, 0, n],
    }


def score_rules(captures: Sequence[torch.Tensor]) -> Mapping[str, ScoreRule]:
    """What becomes of a score, by form."""
    return {
        "alibi": lambda s, b, h, m, n: s + captures[0][h] * (n - m),
        "softcap": lambda s, b, h, m, n: 20.0 * torch.tanh(s / 20.0),
        "bias": lambda s, b, h, m, n: s + captures[0][0, h, m, n],
        "table": lambda s, b, h, m, n: s + captures[0][h, n - m + 512],
    }
