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
    out, _ = attention_op()(q, k, v, [], site, False, True)
    fake, _ = attention_op()(*(t.to("meta") for t in (q, k, v)), [], site, False, True)
    assert torch.equal(out, q + k + v)
    assert out.stride() == fake.stride() == (160, 8, 32, 1)
    assert out.transpose(1, 2).reshape(2, 5, 32).data_ptr() == out.data_ptr()


def heads_apart(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """BART: the mask is added with the heads apart, the softmax taken with them merged."""
    scores = torch.bmm(q, k.transpose(1, 2)).view(2, 4, q.shape[1], k.shape[1]) + bias
    scores = torch.max(scores, torch.full((), -1e30)).view(8, q.shape[1], k.shape[1])
    return torch.bmm(torch.softmax(scores, -1), v)


def windows_apart(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Swin: the mask belongs to the window, which is the inner part of the batch."""
    scores = (q @ k.mT).view(2, 4, 3, q.shape[2], k.shape[2]) + bias.unsqueeze(1).unsqueeze(0)
    return torch.softmax(scores.view(-1, 3, q.shape[2], k.shape[2]), -1) @ v


def rows_and_columns_apart(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """ViTDet: one bias for the row of a key and one for its column."""
    scores = (q @ k.mT).view(-1, 3, 5, 3, 5) + bias[..., :3, None] + bias[..., None, 3:]
    return torch.softmax(scores.view(-1, 15, 15), -1) @ v


@pytest.mark.parametrize(
    "attention, shape, bias, form",
    [
        (heads_apart, (8, 9, 16), (2, 1, 9, 9), "bias[b // 4, 0, m, n]"),
        (windows_apart, (8, 3, 16, 8), (4, 16, 16), "bias[b % 4, m, n]"),
        (rows_and_columns_apart, (8, 15, 8), (8, 3, 5, 8), "n % 5"),
    ],
)
def test_scores_that_are_split_for_a_mask_and_joined_again(
    attention: Any, shape: tuple[int, ...], bias: tuple[int, ...], form: str
) -> None:
    torch._dynamo.reset()
    q, k, v = (torch.randn(shape) for _ in range(3))
    added = torch.randn(bias)
    compiled = attir.compile(attention, strict=True, backend="interpret")
    with torch.no_grad():
        expected = attention(*(x.double() for x in (q, k, v, added)))
        torch.testing.assert_close(compiled(q, k, v, added).double(), expected, atol=2e-6, rtol=2e-6)
    (site,) = attir.explain(compiled).sites
    assert form in site.form


def test_dropout_that_is_not_at_work_may_be_written_to() -> None:
    """Speech encoders zero padded frames in the result of a dropout, in place."""
    torch._dynamo.reset()

    def encoder(x: torch.Tensor, padded: torch.Tensor) -> torch.Tensor:
        x = torch.nn.functional.dropout(x * 2, 0.1, training=False)
        x[padded] = 0
        return torch.softmax(x @ x.mT, -1) @ x

    x, padded = torch.randn(2, 7, 8), torch.arange(7) >= torch.tensor([[4], [7]])
    compiled = attir.compile(encoder, strict=True, backend="interpret")
    with torch.no_grad():
        torch.testing.assert_close(compiled(x, padded), encoder(x, padded))
    assert [s.status for s in attir.explain(compiled).sites] == ["fused"]


class Scaled(torch.nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return torch.softmax(q @ k.mT * self.scale, -1) @ v


def test_a_number_that_changes_is_a_constant_again() -> None:
    """From its second value on Dynamo passes a float as an input; each value has a graph of its own."""
    torch._dynamo.reset()
    q, k, v = (torch.randn(2, 3, 5, 16) for _ in range(3))
    for scale in (0.25, 0.5, 0.75):
        compiled = attir.compile(Scaled(scale), strict=True, backend="interpret")
        with torch.no_grad():
            torch.testing.assert_close(compiled(q, k, v), Scaled(scale)(q, k, v))
        assert [s.status for s in attir.explain(compiled).sites] == ["fused"]


@pytest.mark.parametrize("sink", [False, True])
@pytest.mark.parametrize("batch, heads, queries", [(1, 1, 1), (2, 3, 1), (1, 3, 5)])
def test_the_only_key_is_a_key(sink: bool, batch: int, heads: int, queries: int) -> None:
    """The first token of a generation: casts broadcast axes of size 1, and positions become numbers."""
    torch._dynamo.reset()

    def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        scores = q @ k.mT * 0.25
        if sink:
            scores = torch.cat([scores, torch.full_like(scores, 0.3)], -1)
        return torch.softmax(scores.float(), -1).to(q.dtype)[..., :1] @ v

    q, k, v = (torch.randn(batch, heads, n, 16, dtype=torch.bfloat16) for n in (queries, 1, 1))
    compiled = attir.compile(attention, strict=True, backend="interpret")
    with torch.no_grad():
        ours, eager, exact = compiled(q, k, v), attention(q, k, v), attention(*(x.double() for x in (q, k, v)))
    error, eager_error = ((x.double() - exact).abs().max().item() for x in (ours, eager))
    # One rounding of the result, which eager escapes where it rounds the same way twice.
    assert error <= 2 * eager_error + torch.finfo(torch.bfloat16).eps / 2 * exact.abs().max().item()
