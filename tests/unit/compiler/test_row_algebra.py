"""What happens to rows is said in a word, found from what each element of the result reads."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import attir

Rotation = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def half(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin


def interleaved(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    turned = torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2)
    return x * cos + turned * sin


def partial(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    return torch.cat([half(x[..., :8], cos[..., :8], sin[..., :8]), x[..., 8:]], -1)


def two_dimensional(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    (rows, columns), c, s = x.chunk(2, -1), cos.chunk(2, -1), sin.chunk(2, -1)
    return torch.cat([half(rows, c[0], s[0]), half(columns, c[1], s[1])], -1)


def normed(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    return half(x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6), cos, sin)


def flipped(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    return x * cos + x.flip(-1) * sin


@pytest.mark.parametrize(
    "rotation, words",
    [
        (half, ["rope(half)"]),
        (interleaved, ["rope(interleaved)"]),
        (partial, ["rope(half, 8 of 16)"]),
        (two_dimensional, ["rope(half, 2-D)"]),
        (normed, ["rms norm", "rope(half)"]),
    ],
)
@pytest.mark.parametrize("which", ["q", "k", "both"])
def test_rotations_have_names(rotation: Rotation, words: list[str], which: str) -> None:
    suffix = "" if which == "both" else f" of {which}"
    assert form_of(rotation, which) == ", ".join(["softmax(q·k/√d) v", *(word + suffix for word in words)])


def test_what_has_no_name_is_written_out() -> None:
    form = form_of(flipped, "q")
    assert form.startswith("softmax(q·k/√d) v, q ↦ q[b, h, m, d]·") and "15" in form


def form_of(rotation: Rotation, which: str) -> str:
    torch._dynamo.reset()

    def attention(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> torch.Tensor:
        if which != "k":
            q = rotation(q, cos, sin)
        if which != "q":
            k = rotation(k, cos, sin)
        return torch.nn.functional.scaled_dot_product_attention(q, k, v)

    q, k, v = (torch.randn(1, 2, 5, 16) for _ in range(3))
    cos, sin = torch.randn(5, 16), torch.randn(5, 16)
    compiled = attir.compile(attention, strict=True, backend="interpret", fuse_rows="always")
    with torch.no_grad():
        torch.testing.assert_close(compiled(q, k, v, cos, sin), attention(q, k, v, cos, sin))
    (site,) = attir.explain(compiled).sites
    return site.form
