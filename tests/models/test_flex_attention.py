"""flex_attention inside compiled functions: its mods are read as graph, its block lists kept where they say more.

The reference is written from the definition: a position is kept where its block is listed as full,
or listed and mask_mod holds.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownLambdaType=false
# pyright: reportUnknownArgumentType=false, reportPrivateUsage=false

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import (
    AuxRequest,
    BlockMask,
    and_masks,
    create_block_mask,
    flex_attention,
    or_masks,
)

import attir

Mod = Callable[..., Any]
LENGTH = 75


@pytest.fixture(autouse=True)
def fresh_dynamo() -> None:
    torch._dynamo.reset()


def drawn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape))).to(dtype)


def heads(queries: int = LENGTH, keys: int = LENGTH, key_heads: int = 4, batch: int = 2) -> tuple[Tensor, ...]:
    """q (B, 4, M, 16), k and v (B, K, N, 16)."""
    return drawn(batch, 4, queries, 16), *(drawn(batch, key_heads, keys, 16, seed=s) for s in (2, 3))


def reference(
    q: Tensor, k: Tensor, v: Tensor, kept: Tensor | bool, score_mod: Mod | None = None, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """The result and the log-sum-exp in float64; `kept` broadcasts to (batch, head, query, key)."""
    q, k, v = (x.double() for x in (q, k, v))
    k, v = (x.expand(q.shape[0], -1, -1, -1).repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    scores = q @ k.mT * (scale or 1 / math.sqrt(q.shape[-1]))
    if score_mod is not None:
        scores = score_mod(scores, *positions(*scores.shape))
    scores = scores.masked_fill(~torch.as_tensor(kept), -math.inf)
    return torch.softmax(scores, -1).nan_to_num(0) @ v, scores.logsumexp(-1)


def positions(*shape: int) -> list[Tensor]:
    return [torch.arange(size).view([-1 if i == axis else 1 for i in range(4)]) for axis, size in enumerate(shape)]


def kept_by(mask_mod: Mod, q: Tensor, k: Tensor) -> Tensor:
    return mask_mod(*positions(*q.shape[:3], k.shape[2]))


def listed(blocks: BlockMask, q: Tensor, k: Tensor, mask_mod: Mod) -> Tensor:
    """What block lists and mask_mod keep together, by the definition."""
    rows, columns = blocks.BLOCK_SIZE
    partial, full = (torch.zeros(q.shape[0], 4, q.shape[2], k.shape[2], dtype=torch.bool) for _ in range(2))
    for target, counts, indices in (
        (partial, blocks.kv_num_blocks, blocks.kv_indices),
        (full, blocks.full_kv_num_blocks, blocks.full_kv_indices),
    ):
        if counts is None or indices is None:
            continue
        for b, h in ((b, h) for b in range(q.shape[0]) for h in range(4)):
            at = (b if counts.shape[0] > 1 else 0), (h if counts.shape[1] > 1 else 0)
            for row in range(counts.shape[2]):
                for slot in range(int(counts[*at, row])):
                    column = int(indices[*at, row, slot])
                    area = slice(row * rows, (row + 1) * rows), slice(column * columns, (column + 1) * columns)
                    target[b, h][area] = True
    return full | (partial & kept_by(mask_mod, q, k))


def close(ours: Tensor, exact: Tensor, eps: float = 3e-6) -> bool:
    """Equal where not finite; else within a few roundings of sums of numbers of order 1."""
    assert ours.shape == exact.shape
    finite = exact.isfinite()
    assert torch.equal(ours[~finite].double(), exact[~finite])
    return bool((ours.double() - exact)[finite].abs().max() < eps)


def check(function: Callable[..., Any], inputs: tuple[Any, ...], exact: Tensor) -> attir.Report:
    """The compiled function is fused and as exact as f32 allows."""
    compiled = attir.compile(function, strict=True)
    with torch.no_grad():
        assert close(compiled(*inputs), exact)
    report = attir.explain(compiled)
    assert [s.status for s in report.sites] == ["fused"]
    return report


def causal(b: Any, h: Any, m: Any, n: Any) -> Any:
    return m >= n


def test_nothing_but_q_k_and_v() -> None:
    q, k, v = heads()
    report = check(lambda q, k, v: flex_attention(q, k, v), (q, k, v), reference(q, k, v, True)[0])
    assert report.sites[0].form == "softmax(q·k/√d) v"


def test_scale_and_groups_and_another_value_width() -> None:
    q, k, _ = heads(13, 17, 2)
    v = drawn(2, 2, 17, 24)
    check(
        lambda q, k, v: flex_attention(q, k, v, scale=0.3, enable_gqa=True),
        (q, k, v),
        reference(q, k, v, True, scale=0.3)[0],
    )


def test_inputs_with_other_strides() -> None:
    q, k, v = (x.transpose(1, 2) for x in (drawn(2, 33, 4, 16), drawn(2, 33, 8, 16)[:, :, ::2], drawn(2, 33, 4, 16)))
    check(lambda q, k, v: flex_attention(q, k, v), (q, k, v), reference(q, k, v, True)[0])


def test_captured_tables_and_numbers() -> None:
    q, k, v = heads()
    bias, offset = drawn(4, 2 * LENGTH), 5

    def score(s: Any, b: Any, h: Any, m: Any, n: Any) -> Any:
        return s * 0.5 + bias[h, m - n + LENGTH] - 0.1 * (b + offset)

    check(lambda q, k, v: flex_attention(q, k, v, score), (q, k, v), reference(q, k, v, True, score)[0])


def test_masks_joined_with_and_or() -> None:
    documents = torch.arange(LENGTH) // 20
    mask = or_masks(and_masks(causal, lambda b, h, m, n: documents[m] == documents[n]), lambda b, h, m, n: n < 3)
    q, k, v = heads()
    blocks = create_block_mask(mask, None, None, LENGTH, LENGTH, "cpu", BLOCK_SIZE=16)
    check(
        lambda q, k, v, blocks: flex_attention(q, k, v, block_mask=blocks),
        (q, k, v, blocks),
        reference(q, k, v, kept_by(mask, q, k))[0],
    )


@pytest.mark.parametrize("sizes", [(None, None), (2, None), (None, 4), (2, 4)])
def test_block_masks_by_batch_and_head(sizes: tuple[int | None, int | None]) -> None:
    batch, head = sizes

    def mask(b: Any, h: Any, m: Any, n: Any) -> Any:
        window = 4 + (b * 9 if batch else 0) + (h * 5 if head else 0)
        return (m >= n) & (m - n <= window)

    q, k, v = heads(67, 67, 2)
    blocks = create_block_mask(mask, batch, head, 67, 67, "cpu", BLOCK_SIZE=(16, 32))
    check(
        lambda q, k, v, blocks: flex_attention(q, k, v, block_mask=blocks, enable_gqa=True),
        (q, k, v, blocks),
        reference(q, k, v, kept_by(mask, q, k))[0],
    )


def test_one_batch_of_keys_for_all_queries() -> None:
    q, k, v = heads()[0], *heads(batch=1)[1:]
    blocks = create_block_mask(causal, 2, None, LENGTH, LENGTH, "cpu", BLOCK_SIZE=32)
    check(
        lambda q, k, v, blocks: flex_attention(q, k, v, block_mask=blocks),
        (q, k, v, blocks),
        reference(q, k, v, kept_by(causal, q, k))[0],
    )


def test_lists_that_drop_blocks_and_keep_whole_ones_are_honoured() -> None:
    """Block (row 2, column 1) is in no list, (0, 2) is kept whole although the mask drops it, (3, 3) is in both."""
    q, k, v = heads(60, 60)
    counts = torch.tensor([1, 2, 1, 2], dtype=torch.int32).view(1, 1, 4)
    indices = torch.tensor([[0, 3, 3, 3], [1, 0, 3, 3], [2, 1, 0, 0], [3, 0, 9, 9]], dtype=torch.int32).view(1, 1, 4, 4)
    full_counts = torch.tensor([1, 0, 1, 1], dtype=torch.int32).view(1, 1, 4)
    full_indices = torch.tensor([[2, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [3, 0, 0, 0]], dtype=torch.int32)
    indices = indices.clamp(max=3)
    blocks = BlockMask.from_kv_blocks(
        counts,
        indices,
        full_counts,
        full_indices.view(1, 1, 4, 4),
        BLOCK_SIZE=16,
        mask_mod=causal,
        seq_lengths=(60, 60),
    )
    kept = listed(blocks, q, k, causal)
    assert not torch.equal(kept, kept_by(causal, q, k).expand_as(kept))
    check(
        lambda q, k, v, blocks: flex_attention(q, k, v, block_mask=blocks),
        (q, k, v, blocks),
        reference(q, k, v, kept)[0],
    )


def test_lists_with_fewer_slots_than_columns() -> None:
    """Only 2 of 5 columns may be listed in a row, and the last of them are listed."""
    q, k, v = heads(40, 80)
    counts = torch.tensor([[2, 1, 0]], dtype=torch.int32).view(1, 1, 3)
    indices = torch.tensor([[4, 0], [3, 3], [0, 0]], dtype=torch.int32).view(1, 1, 3, 2)
    blocks = BlockMask.from_kv_blocks(counts, indices, BLOCK_SIZE=16, seq_lengths=(40, 80), compute_q_blocks=False)
    kept = listed(blocks, q, k, lambda b, h, m, n: torch.tensor(True))
    check(
        lambda q, k, v, blocks: flex_attention(q, k, v, block_mask=blocks),
        (q, k, v, blocks),
        reference(q, k, v, kept)[0],
    )


@pytest.mark.parametrize("block", [16, 128])
def test_lists_made_in_the_same_graph_are_not_kept(block: int) -> None:
    """Where create_block_mask is compiled too, its lists are shown to say what mask_mod says, and disappear."""
    documents = torch.arange(LENGTH) // 20

    def mask(b: Any, h: Any, m: Any, n: Any) -> Any:
        return (m >= n) & (documents[m] == documents[n])

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return flex_attention(
            q, k, v, block_mask=create_block_mask(mask, None, None, LENGTH, LENGTH, "cpu", BLOCK_SIZE=block)
        )  # fmt: skip

    q, k, v = heads()
    report = check(run, (q, k, v), reference(q, k, v, kept_by(mask, q, k))[0])
    assert "blocks" not in report.sites[0].form and "m ≥ n" in report.sites[0].form


def test_lists_made_from_another_mask_in_the_same_graph_are_kept() -> None:
    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        blocks = create_block_mask(lambda b, h, m, n: m - n >= 20, None, None, LENGTH, LENGTH, "cpu", BLOCK_SIZE=16)
        blocks.mask_mod = causal
        return flex_attention(q, k, v, block_mask=blocks)

    q, k, v = heads()
    blocks = create_block_mask(lambda b, h, m, n: m - n >= 20, None, None, LENGTH, LENGTH, "cpu", BLOCK_SIZE=16)
    exact = reference(q, k, v, listed(blocks, q, k, causal))[0]
    assert "blocks" in check(run, (q, k, v), exact).sites[0].form


def test_a_mask_that_differs_by_head_is_not_taken_from_lists_for_one_head() -> None:
    """Lists made for head 0 alone do not speak for a mask_mod that depends on the head."""

    def mask(b: Any, h: Any, m: Any, n: Any) -> Any:
        return m - n >= 10 * h

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return flex_attention(
            q, k, v, block_mask=create_block_mask(mask, None, None, LENGTH, LENGTH, "cpu", BLOCK_SIZE=16)
        )  # fmt: skip

    q, k, v = heads()
    blocks = create_block_mask(mask, None, None, LENGTH, LENGTH, "cpu", BLOCK_SIZE=16)
    exact = reference(q, k, v, listed(blocks, q, k, mask))[0]
    assert "blocks" in check(run, (q, k, v), exact).sites[0].form


@pytest.mark.parametrize("request_by", ["return_lse", "return_aux"])
def test_log_sum_exp_of_rows_with_and_without_keys(request_by: str) -> None:
    def mask(b: Any, h: Any, m: Any, n: Any) -> Any:
        return (m - n >= 4) & (n >= 2)

    asked: dict[str, Any] = {"return_lse": True} if request_by == "return_lse" else {"return_aux": AuxRequest(lse=True)}

    def run(q: Tensor, k: Tensor, v: Tensor, blocks: BlockMask) -> tuple[Tensor, Tensor]:
        out, more = flex_attention(q, k, v, block_mask=blocks, **asked)  # pyright: ignore[reportDeprecated]
        return out, more if isinstance(more, Tensor) else more.lse

    q, k, v = heads()
    compiled = attir.compile(run, strict=True)
    with torch.no_grad():
        out, lse = compiled(q, k, v, create_block_mask(mask, None, None, LENGTH, LENGTH, "cpu"))
    exact, exact_lse = reference(q, k, v, kept_by(mask, q, k))
    assert exact_lse[..., :6].isneginf().all() and (out[..., :6, :] == 0).all()
    assert close(out, exact) and close(lse, exact_lse)


def test_sizes_that_change() -> None:
    lengths = torch.tensor([9, 30])

    def mask(b: Any, h: Any, m: Any, n: Any) -> Any:
        return (m >= n) | (n < lengths[b])

    compiled = attir.compile(
        lambda q, k, v, blocks: flex_attention(q, k, v, block_mask=blocks), strict=True, dynamic=True
    )
    for length in (40, 75, 129):
        q, k, v = heads(length, length)
        blocks = create_block_mask(mask, 2, None, length, length, "cpu", BLOCK_SIZE=32)
        with torch.no_grad():
            assert close(compiled(q, k, v, blocks), reference(q, k, v, kept_by(mask, q, k))[0])
    assert all(s.status == "fused" for s in attir.explain(compiled).sites)


@pytest.mark.slow
def test_sizes_that_change_with_the_mask_made_inside() -> None:
    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        past = k.shape[2] - q.shape[2]

        def mask(b: Any, h: Any, m: Any, n: Any) -> Any:
            return n <= m + past

        return flex_attention(q, k, v, block_mask=create_block_mask(mask, None, None, q.shape[2], k.shape[2], "cpu"))

    compiled = attir.compile(run, strict=True, dynamic=True)
    for queries, keys in ((40, 75), (31, 130), (20, 140)):
        q, k, v = heads(queries, keys)
        exact = reference(
            q, k, v, positions(1, 1, queries, keys)[3] <= positions(1, 1, queries, 1)[2] + keys - queries
        )[0]
        with torch.no_grad():
            assert close(compiled(q, k, v), exact)
    assert all(s.status == "fused" for s in attir.explain(compiled).sites)


def test_kernel_options_change_nothing() -> None:
    q, k, v = heads()
    options: Any = {"BLOCK_M": 32, "PRESCALE_QK": True, "FORCE_USE_FLEX_ATTENTION": True}
    check(lambda q, k, v: flex_attention(q, k, v, kernel_options=options), (q, k, v), reference(q, k, v, True)[0])


def test_a_function_that_is_not_understood_is_refused_and_runs_as_it_is() -> None:
    def score(s: Any, b: Any, h: Any, m: Any, n: Any) -> Any:
        return s + torch.special.bessel_j0(m - n + 0.5)

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return flex_attention(q, k, v, score_mod=score)

    q, k, v = heads()
    compiled = attir.compile(run)
    with torch.no_grad():
        assert close(compiled(q, k, v), reference(q, k, v, True, score)[0])
    (site,) = attir.explain(compiled).sites
    assert (site.status, site.op) == ("refused", "aten.flex_attention")
    assert "score_mod uses 'aten.special_bessel_j0', which is not understood" in site.reason
    assert __file__ in site.location
    torch._dynamo.reset()
    with pytest.raises(attir.CompileError, match="bessel_j0"), torch.no_grad():
        attir.compile(run, strict=True)(q, k, v)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_types(dtype: torch.dtype) -> None:
    q, k, v = (x.to(dtype) for x in heads())
    slopes = torch.tensor([0.5, 0.25, 0.125, 0.0625])

    def score(s: Any, b: Any, h: Any, m: Any, n: Any) -> Any:
        return s + slopes[h] * (n - m)

    compiled = attir.compile(lambda q, k, v: flex_attention(q, k, v, score), strict=True)
    with torch.no_grad():
        ours = compiled(q, k, v)
    assert ours.dtype == dtype
    exact = reference(q, k, v, True, score)[0]
    assert (ours.double() - exact).abs().max() < 2 * torch.finfo(dtype).eps * v.double().abs().max()


def test_vmap_outside_of_flex_attention() -> None:
    """A mask made with torch.vmap, as libraries do, is read like any other."""

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        rows, columns = torch.arange(q.shape[2]), torch.arange(k.shape[2])
        keep = torch.vmap(torch.vmap(lambda m, n: (m >= n) & (m - n < 7), (None, 0)), (0, None))(rows, columns)
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=keep)

    q, k, v = heads()
    report = check(run, (q, k, v), reference(q, k, v, kept_by(lambda b, h, m, n: (m >= n) & (m - n < 7), q, k))[0])
    assert "m - n < 7" in report.sites[0].form


table, rows_q, rows_k = drawn(5, 4, 3), drawn(4, LENGTH, 6), drawn(LENGTH, 6)
SCORES: dict[str, Mod] = {
    "shifts of negative numbers": lambda s, b, h, m, n: s + ((m - n) >> 3) * 0.1 + ((n - m) << 2) * 0.01,
    "shift by a tensor": lambda s, b, h, m, n: s + torch.bitwise_right_shift(n - 40, 2) * 0.1,
    "complement": lambda s, b, h, m, n: torch.where(~(m > n) & (~(n - m) != -3), s, s * 0.5),
    "remainders": lambda s, b, h, m, n: s + ((m - n) % 7) * 0.1 + (m % 5) * 0.2 + (n % -3) * 0.3,
    "sum over one axis": lambda s, b, h, m, n: s + (table[m % 5, h] * table[n % 5, 0]).sum(-1),
    "sum over all axes": lambda s, b, h, m, n: s + table[m % 5].sum() * 0.3,
    "sum that keeps its axis": lambda s, b, h, m, n: s + table[m % 5].sum(1, keepdim=True)[h, 0],
    "dot": lambda s, b, h, m, n: s + torch.dot(rows_q[h, m], rows_k[n]),
}


def by_element(score_mod: Mod, q: Tensor, k: Tensor) -> Mod:
    """What a score_mod gives at every element, as flex_attention calls it."""
    called = score_mod
    for axis in range(4):
        along = [0 if i == 0 or i == 4 - axis else None for i in range(5)]
        called = torch.vmap(called, tuple(along))
    places = [torch.arange(size) for size in (*q.shape[:3], k.shape[2])]
    return lambda s, *_: called(s, *places)


@pytest.mark.parametrize("name", SCORES)
def test_operators_in_a_score(name: str) -> None:
    q, k, v = heads()
    score = by_element(SCORES[name], q, k)
    check(
        lambda q, k, v: flex_attention(q, k, v, SCORES[name]),
        (q, k, v),
        reference(q, k, v, True, score)[0],
    )


def test_long_sums_are_refused() -> None:
    rows = drawn(4, LENGTH, 100)
    q, k, v = heads()
    with pytest.raises(attir.CompileError, match=r"score_mod uses 'aten.sum.dim_IntList'"), torch.no_grad():
        attir.compile(
            lambda q, k, v: flex_attention(q, k, v, lambda s, b, h, m, n: s + rows[h, m].sum(-1)), strict=True
        )(q, k, v)
