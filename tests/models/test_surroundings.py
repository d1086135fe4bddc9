"""What stands around attention in a model costs nothing that it need not cost."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from typing import Any

import pytest
import torch

import attir
from attir.compiler.custom_op import attention_op, register_site
from attir.compiler.target import load_target

TOKENS = torch.randint(3, 100, (2, 21), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_positions_that_are_counted_make_no_packed_sequences(implementation: str) -> None:
    """transformers compares cumsum(diff(positions) != 1) of m and n: nothing is left of it but the triangle."""
    torch._dynamo.reset()
    pytest.importorskip("transformers")
    model: Any = load_target("hf:llama", {"attn_implementation": implementation}).call
    compiled = attir.compile(model, strict=True, backend="interpret")
    with torch.no_grad():
        compiled(input_ids=TOKENS)
    forms = {s.form for s in attir.explain(compiled).sites}
    assert forms == {"softmax(q·k/√d | n ≤ m) v, heads 4/2"}


def joined(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    return out.transpose(1, 2).flatten(2)


@pytest.mark.parametrize("backend", ["native", "interpret"])
@pytest.mark.parametrize("queries, keys", [(33, 33), (1, 700), (1, 0), (0, 5)])
def test_heads_are_joined_without_a_copy(backend: Any, queries: int, keys: int) -> None:
    """The reshape of the result shares its memory, for whole, split and empty calls."""
    torch._dynamo.reset()
    q, k, v = (torch.randn(2, h, n, 16) for h, n in ((4, queries), (4, keys), (4, keys)))
    compiled = attir.compile(joined, strict=True, backend=backend, dynamic=False)
    with torch.no_grad():
        torch.testing.assert_close(compiled(q, k, v), joined(q, k, v))
    (site,) = attir.explain(compiled).sites
    assert site.status == "fused"


def test_a_runner_that_writes_in_one_order_only_is_copied() -> None:
    q, k, v = (torch.randn(2, 4, 5, 8) for _ in range(3))

    def runner(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, _c: Any, _lse: bool) -> Any:
        return q + k + v, q.new_empty(0)

    site = register_site(runner, positions_first=True)
    out, _ = attention_op()(q, k, v, [], site, False)
    fake, _ = attention_op()(*(t.to("meta") for t in (q, k, v)), [], site, False)
    assert torch.equal(out, q + k + v)
    assert out.stride() == fake.stride() == (160, 8, 32, 1)
    assert out.transpose(1, 2).reshape(2, 5, 32).data_ptr() == out.data_ptr()
