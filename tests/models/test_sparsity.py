"""`sparsity=` on functions and models: what is chosen is attended to exactly, and nothing else is changed."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from models.zoo import ARCHITECTURES
from models.zoo_rows import tokens
from numeric.closeness import ROUNDOFF
from torch.nn.functional import scaled_dot_product_attention

import attir
from attir import masks
from attir.compiler.host_ops import HOST_OPS
from attir.compiler.native_support import native_problem
from attir.compiler.target import load_target
from attir.ir.attributes import f32
from attir.sparsity import Selection, select

pytestmark = pytest.mark.skipif(bool(native_problem()), reason="native kernels do not run here")

ESTIMATORS = ("quest", "pooled", "low_rank", "int4", "sampled", "centroids")
LENGTH, WIDTH = 333, 16


def causal(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def problem(
    queries: int = LENGTH, keys: int = LENGTH, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q with four heads, k and v with two."""
    draw = torch.Generator().manual_seed(seed)
    sizes = (2, 4, queries, WIDTH), (2, 2, keys, WIDTH), (2, 2, keys, WIDTH)
    q, k, v = (torch.randn(size, generator=draw) for size in sizes)
    return 2 * q, k, v


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Collects the tables of blocks that calls choose."""
    tables: list[torch.Tensor] = []
    run: Callable[..., Any] = HOST_OPS["attn.select"]

    def watched(op: Any, tensors: Any) -> Any:
        tables.append(run(op, tensors)[0])
        return [tables[-1]]

    monkeypatch.setitem(HOST_OPS, "attn.select", watched)  # type: ignore[arg-type]
    return tables


def kept_scores(table: torch.Tensor, how: Selection, queries: int, keys: int) -> torch.Tensor:
    """The blocks (B, K, MB, NB) as a mask of single scores (B, 2 K, queries, keys)."""
    wide = table.repeat_interleave(2, 1).repeat_interleave(how.rows, 2).repeat_interleave(how.block, 3)
    return wide[:, :, :queries, :keys]


def compiled_anew(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    torch._dynamo.reset()
    return attir.compile(function, strict=True, **options)


def assert_is_attention(
    out: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor
) -> None:
    exact = scaled_dot_product_attention(q.double(), k.double(), v.double(), attn_mask=mask, enable_gqa=True)
    plain = scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
    bound = 2 * (plain - exact).abs().max() + 2 * ROUNDOFF[f32] * v.abs().max()
    assert (out - exact).abs().max() <= bound


@pytest.mark.parametrize("backend", ["native", "interpret"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_what_is_chosen_is_attended_to_exactly(estimator: str, backend: str, chosen: list[torch.Tensor]) -> None:
    how = select(estimator, keep=0.3, block=32, rows=48, sinks=1, local=1)
    q, k, v = problem()
    out = compiled_anew(causal, sparsity=how, backend=backend)(q, k, v)
    (table,) = chosen
    lower = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
    mask = lower & kept_scores(table, how, LENGTH, LENGTH)
    assert 0.2 < mask.sum() / (lower.sum() * 8) < 0.7
    assert_is_attention(out, q, k, v, mask)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_keeping_everything_is_dense_attention(estimator: str, chosen: list[torch.Tensor]) -> None:
    q, k, v = problem()
    how = select(estimator, keep=1)
    out = compiled_anew(causal, sparsity=how)(q, k, v)
    (table,) = chosen
    blocks = -(-LENGTH // 64)
    assert torch.equal(table, torch.ones(blocks, blocks, dtype=torch.bool).tril().expand_as(table))
    assert_is_attention(out, q, k, v, torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype, chosen: list[torch.Tensor]) -> None:
    q, k, v = (x.to(dtype) for x in problem())
    how = select("quest", keep=0.3, block=32, rows=32, local=1)
    out = compiled_anew(causal, sparsity=how)(q, k, v)
    mask = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril() & kept_scores(chosen[0], how, LENGTH, LENGTH)
    exact = scaled_dot_product_attention(q.double(), k.double(), v.double(), attn_mask=mask, enable_gqa=True)
    plain = scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
    roundoff = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}[dtype]
    assert (out - exact).abs().max() <= 2 * (plain - exact).abs().max() + 2 * roundoff * v.abs().max()


def decoded(cache: tuple[torch.Tensor, torch.Tensor], start: int, **options: Any) -> list[torch.Tensor]:
    """Steps of one query each on a cache that is written one position after the other."""

    def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return scaled_dot_product_attention(q, k, v, enable_gqa=True)

    run = compiled_anew(attention, **options)
    keys, values = (torch.zeros_like(x) for x in cache)
    keys[:, :, :start], values[:, :, :start] = cache[0][:, :, :start], cache[1][:, :, :start]
    steps: list[torch.Tensor] = []
    draw = torch.Generator().manual_seed(1)
    for length in range(start + 1, cache[0].shape[2] + 1):
        keys[:, :, length - 1], values[:, :, length - 1] = cache[0][:, :, length - 1], cache[1][:, :, length - 1]
        q = torch.randn((2, 4, 1, WIDTH), generator=draw)
        steps.append(run(q, keys[:, :, :length], values[:, :, :length]))
    return steps


@pytest.mark.parametrize("estimator", ["quest", "pooled", "int4"])
def test_a_growing_cache_is_summarised_step_by_step(estimator: str) -> None:
    """The same blocks, and so the same bits, as when every step looks at all keys again."""
    _, k, v = problem()
    how = dict[str, Any](keep=0.2, block=16, rows=16, sinks=1, local=1)
    anew = decoded((k, v), 300, sparsity=select(estimator, **how))
    kept = decoded((k, v), 300, sparsity=select(estimator, append_only=True, **how))
    assert all(torch.equal(a, b) for a, b in zip(anew, kept, strict=True))
    dense = decoded((k, v), 300)
    assert not torch.allclose(anew[-1], dense[-1])


def test_a_cache_that_begins_anew_is_summarised_anew() -> None:
    """Another prompt in the same memory, longer than the first."""
    cache_k, cache_v = torch.zeros(2, 2, LENGTH, WIDTH), torch.zeros(2, 2, LENGTH, WIDTH)
    how = dict[str, Any](keep=0.2, block=16, rows=16, local=1)
    run = compiled_anew(causal, sparsity=select("quest", append_only=True, **how))
    for seed, length in ((0, 100), (1, 300)):
        q, k, v = problem(length, length, seed)
        cache_k[:, :, :length], cache_v[:, :, :length] = k, v
        out = run(q, cache_k[:, :, :length], cache_v[:, :, :length])
        assert torch.equal(out, compiled_anew(causal, sparsity=select("quest", **how))(q, k, v))


def test_a_model_that_keeps_everything_computes_what_it_did() -> None:
    model: Any = ARCHITECTURES["llama"].model()
    with torch.no_grad():
        expected = compiled_anew(model)(input_ids=tokens()).last_hidden_state
        found = compiled_anew(model, sparsity=select("quest", keep=1))(input_ids=tokens()).last_hidden_state
    # Rows of keys are rotated outside of the kernel, where dense attention may rotate them inside.
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_the_report_says_what_is_left_out() -> None:
    run = compiled_anew(causal, sparsity=select("quest", keep=0.25))
    run(*problem())
    (site,) = attir.explain(run).sites
    assert "sparsity  25 % of blocks of 64 keys for 64 queries, by quest; 1 first and 4 local always" in str(site)


def test_the_report_counts_what_a_call_chooses(chosen: list[torch.Tensor]) -> None:
    run = compiled_anew(causal, sparsity=select("quest", keep=0.25, local=1))
    report = attir.explain(run, problem())
    table, blocks = chosen[-1], -(-LENGTH // 64)
    live = 4 * blocks * (blocks + 1) // 2
    share = f"chosen: {int(table.sum())} of {live} live blocks ({100 * int(table.sum()) / live:.1f} %) in this call"
    assert share in str(report)


# --- masks of the user's


def test_a_mask_is_combined_with_that_of_each_site() -> None:
    q, k, v = problem()
    out = compiled_anew(causal, sparsity=masks.window(40) | masks.prefix(3))(q, k, v)
    m, n = torch.arange(LENGTH)[:, None], torch.arange(LENGTH)
    mask = masks.window(40)(0, 0, m, n) | (n < 3)
    assert_is_attention(out, q, k, v, mask & (n <= m))


def test_rows_that_masks_leave_no_key_give_zeros() -> None:
    """As PyTorch's own attention does."""
    q, k, v = problem()
    out = compiled_anew(causal, sparsity=~masks.causal())(q, k, v)
    assert torch.equal(out, torch.zeros_like(out))


def test_a_mask_for_other_sizes_is_refused() -> None:
    run = compiled_anew(causal, sparsity=masks.neighborhood((20, 20), 5))
    with pytest.raises(attir.CompileError, match="is for 400 queries, but there are 333"):
        run(*problem())


# --- calibration


def structured() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One key head whose queries look at few blocks, and one whose queries look at all keys alike."""
    draw = torch.Generator().manual_seed(0)
    length = 1024
    centres = torch.randn(16, WIDTH, generator=draw)
    k = torch.randn(1, 2, length, WIDTH, generator=draw) * 0.1
    q = torch.randn(1, 4, length, WIDTH, generator=draw) * 0.1
    k[:, 0] += 3 * centres.repeat_interleave(64, 0)
    q[:, :2] += 3 * centres[torch.randint(16, (length // 64,), generator=draw)].repeat_interleave(64, 0)
    return q, k, torch.randn(1, 2, length, WIDTH, generator=draw)


def full(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return scaled_dot_product_attention(q, k, v, enable_gqa=True)


def test_calibration_takes_what_the_budget_allows_for_each_head() -> None:
    q, k, v = structured()
    run = compiled_anew(full, sparsity="auto", max_error=0.05)
    with pytest.raises(attir.CompileError, match=r"call attir\.calibrate\(compiled, batches\) first"):
        run(q, k, v)
    text = str(attir.calibrate(run, [(q, k, v)]))
    assert "of 2 key heads 1 take" in text and "1 stay dense" in text, text
    dense = compiled_anew(full)(q, k, v)
    out = run(q, k, v)
    assert torch.equal(out[:, 2:], dense[:, 2:])
    error = (out[:, :2] - dense[:, :2]).norm() / dense[:, :2].norm()
    assert 0 < error <= 0.05


def test_a_budget_that_nothing_meets_leaves_attention_dense() -> None:
    q, k, v = structured()
    run = compiled_anew(full, sparsity="auto", max_error=1e-9)
    assert "2 stay dense" in str(attir.calibrate(run, [{"q": q, "k": k, "v": v}]))
    assert torch.equal(run(q, k, v), compiled_anew(full)(q, k, v))


def test_calibration_needs_something_to_choose_and_batches() -> None:
    run = compiled_anew(full)
    with pytest.raises(attir.CompileError, match="there is nothing to calibrate"):
        attir.calibrate(run, [structured()])
    with pytest.raises(attir.CompileError, match="calibration needs at least one batch, but there are none"):
        attir.calibrate(compiled_anew(full, sparsity="auto", max_error=0.1), [])


def test_each_layer_of_a_model_has_a_choice_of_its_own() -> None:
    model: Any = ARCHITECTURES["llama"].model()
    run = compiled_anew(model, sparsity="auto", max_error=0.1)
    report = attir.calibrate(run, [{"input_ids": tokens()}])
    assert len(report.sites) == 2 and all("error budget 0.1" in str(site) for site in report.sites)
    with torch.no_grad():
        assert torch.isfinite(run(input_ids=tokens()).last_hidden_state).all()


# --- decoding under a mask


def generated_under(mask: masks.Mask, model: Any, steps: int) -> torch.Tensor:
    """Greedy tokens of a model that is told the whole mask, and computes everything anew for each."""
    found = tokens()
    for _ in range(steps):
        length = found.shape[1]
        kept = (masks.causal() & mask).dense(length, length)
        added = torch.zeros(length, length).masked_fill(~kept, torch.finfo(torch.float32).min)
        with torch.no_grad():
            logits = model(input_ids=found, attention_mask=added[None, None].expand(len(found), 1, -1, -1)).logits
        found = torch.cat([found, logits[:, -1:].argmax(-1)], dim=1)
    return found


@pytest.mark.parametrize("cache", [None, "static"])
def test_a_mask_means_positions_in_the_sequence_when_a_model_decodes(cache: str | None) -> None:
    """Whatever the cache looks like: with a static one there are more keys than tokens."""
    pytest.importorskip("transformers")
    model: Any = load_target("hf:llama", {"use_cache": True}).call
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = 0, None
    mask = masks.window(5) | masks.prefix(2)
    expected = generated_under(mask, model, 6)
    model.forward = compiled_anew(model.forward, sparsity=mask)
    arguments: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "cache_implementation": cache}
    assert torch.equal(model.generate(tokens(), **arguments), expected)


def test_a_backend_by_name_cannot_be_calibrated() -> None:
    torch._dynamo.reset()
    options: dict[str, Any] = {"sparsity": "auto", "max_error": 0.1}
    run: Any = torch.compile(full, backend="attir", options=options)  # pyright: ignore[reportUnknownMemberType]
    with pytest.raises(attir.CompileError, match=r"is calibrated on what attir\.compile returns"):
        run(*problem())
