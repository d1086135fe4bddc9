"""Models of transformers with caches in few bits: generation, eager and compiled, and how far logits are off."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from typing import Any

import pytest
import torch
from models.zoo import ARCHITECTURES
from models.zoo_rows import tokens
from numeric.closeness import NATIVE
from numeric.simulated_cache import SimulatedCache

import attir
from attir import CompileError
from attir.compiler.target import load_target

transformers: Any = pytest.importorskip("transformers")


def llama(**changes: Any) -> Any:
    model: Any = load_target("hf:llama", {"use_cache": True, **changes}).call
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = 0, None
    return model


def generated(model: Any, cache: Any, ids: torch.Tensor, count: int = 12, **options: Any) -> torch.Tensor:
    return model.generate(ids, max_new_tokens=count, do_sample=False, past_key_values=cache, **options)


def logits(model: Any, cache: Any, ids: torch.Tensor, prompt: int) -> torch.Tensor:
    """Those of the prompt's last token and of all behind it, which come one by one."""
    with torch.no_grad():
        rows = [model(input_ids=ids[:, :prompt], past_key_values=cache, use_cache=True).logits[:, -1]]
        for place in range(prompt, ids.shape[1]):
            found = model(input_ids=ids[:, place : place + 1], past_key_values=cache, use_cache=True)
            rows.append(found.logits[:, -1])
    return torch.stack(rows, 1).double()


def size(x: torch.Tensor) -> float:
    return float(x.double().square().sum().sqrt())


class Simulated(transformers.DynamicCache):
    """Gives what simulated caches in few bits hold."""

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]
        self.name, self.options, self.simulated = name, options, list[SimulatedCache]()

    def update(self, key_states: Any, value_states: Any, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        super().update(key_states, value_states, layer_idx)  # pyright: ignore[reportUnknownMemberType]
        if layer_idx == len(self.simulated):
            self.simulated.append(SimulatedCache(self.name, **self.options))
        return self.simulated[layer_idx].update(key_states, value_states)


@pytest.mark.parametrize("form", ["eager", pytest.param("compiled", marks=NATIVE)])
@pytest.mark.parametrize("name", ["kv8", "kv4", pytest.param("kv2", marks=pytest.mark.slow)])
def test_logits_are_as_near_as_those_of_a_simulation(name: str, form: str) -> None:
    torch._dynamo.reset()
    ids = torch.cat([tokens(90), tokens(60, 2)], 1)
    options: dict[str, Any] = {"sinks": 2, "recent": 4}
    model = llama(max_position_embeddings=256)
    run = attir.compile(model, strict=True) if form == "compiled" else model
    found = logits(run, attir.kv.Cache(name, **options), ids, 90)
    precise = llama(max_position_embeddings=256).double()
    exact = logits(precise, transformers.DynamicCache(), ids, 90)
    simulated = logits(precise, Simulated(name, **options), ids, 90)
    assert 0 < size(found - exact) <= 1.2 * size(simulated - exact)
    if name == "kv8":
        same = (found.argmax(-1) == exact.argmax(-1)).double().mean()
        assert float(same) >= 0.97


@NATIVE
@pytest.mark.parametrize("name", ["kv8", pytest.param("kv4", marks=pytest.mark.slow)])
def test_generation_compiled_is_generation_eager(name: str) -> None:
    """Two generations, with a cache each: the second one captures nothing anew."""
    torch._dynamo.reset()
    model, ids = llama(), tokens(20)
    options: dict[str, Any] = {"sinks": 2, "recent": 4, "ages": {16: "kv3"} if name == "kv4" else None}
    expected = [generated(model, attir.kv.Cache(name, **options), rows) for rows in (ids, ids.flip(0))]
    model.forward = attir.compile(model.forward, strict=True)
    assert torch.equal(generated(model, attir.kv.Cache(name, **options), ids), expected[0])
    graphs = len(attir.explain(model.forward).graphs)
    assert torch.equal(generated(model, attir.kv.Cache(name, **options), ids.flip(0)), expected[1])
    report = attir.explain(model.forward)
    assert graphs <= 3 and len(report.graphs) == graphs, str(report)
    assert all("read as they are stored" in str(site.quantize) for site in report.sites), str(report)


@NATIVE
def test_beam_search_and_padding() -> None:
    torch._dynamo.reset()
    model, ids = llama(), tokens(20)
    mask = torch.ones_like(ids)
    mask[1, :7] = 0
    options: dict[str, Any] = {"num_beams": 2, "attention_mask": mask}
    expected = generated(model, attir.kv.Cache("kv8", recent=2), ids, 8, **options)
    assert torch.equal(expected, generated(model, None, ids, 8, **options))
    model.forward = attir.compile(model.forward, strict=True)
    assert torch.equal(generated(model, attir.kv.Cache("kv8", recent=2), ids, 8, **options), expected)
    assert "read as they are stored" in str(attir.explain(model.forward))


@NATIVE
@pytest.mark.parametrize("form", ["eager", pytest.param("sdpa", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["mistral", *(pytest.param(n, marks=pytest.mark.slow) for n in (
    "gemma2", "gpt_oss", "bloom", "falcon-alibi", "gpt2"))])  # fmt: skip
def test_models_with_windows_sinks_slopes_and_caps(kind: str, form: str) -> None:
    """Chunks over a cache that holds tokens, and single ones; masks of windows hide what layers keep."""
    torch._dynamo.reset()
    try:
        model = ARCHITECTURES[kind].model(form)
    except ValueError as problem:
        pytest.skip(str(problem))
    run = attir.compile(model)
    caches = [attir.kv.Cache("kv8", sinks=2, recent=3) for _ in range(2)]
    start = 0
    for count in (12, 1, 4, 1):
        ids = tokens(21)[:, start : start + count]
        start += count
        with torch.no_grad():
            found, expected = (
                m(input_ids=ids, past_key_values=cache, use_cache=True)[0]
                for m, cache in zip((run, model), caches, strict=True)
            )
        # Both round to 8 bits what differs by roundings of 24 bits: some codes differ by one.
        assert size(found - expected) < 1e-3 * size(expected)
    # Bloom's keys pass through views that join batch and heads before they enter the product.
    told = "are made as numbers: only one of k and v" if kind == "bloom" else "read as they are stored"
    assert told in str(attir.explain(run))


def test_the_interface_of_transformers() -> None:
    model: Any = llama()
    cache: Any = attir.kv.Cache("kv4", recent=4)
    assert cache.get_seq_length() == 0 and cache.get_mask_sizes(5, 0) == (5, 0) and cache.bytes == 0
    ids = tokens(80)
    with torch.no_grad():
        model(input_ids=ids, past_key_values=cache, use_cache=True)
    layers = len(cache.layers)
    assert cache.get_seq_length() == 80 and cache.get_mask_sizes(3, 1) == (83, 0) and cache.get_max_length() == -1
    assert cache.bytes == sum(layer.cached.bytes for layer in cache.layers) > 0
    cache.crop(-10)
    assert cache.get_seq_length(1) == 70
    before = cache.layers[1].cached.keys()
    cache.batch_repeat_interleave(2)
    cache.reorder_cache(torch.tensor([3, 0]))
    assert torch.equal(cache.layers[1].cached.keys(), before[[1, 0]])
    cache.batch_select_indices(torch.tensor([1]))
    assert torch.equal(cache.layers[1].cached.keys(), before[:1])
    cache.reset()
    assert cache.get_seq_length() == 0 and len(cache.layers) == layers
    with torch.no_grad():
        model(input_ids=ids[:1, :9], past_key_values=cache, use_cache=True)
    assert cache.get_seq_length() == 9
    with pytest.raises(CompileError, match="negative number of tokens"):
        cache.crop(3)
    for refused in (cache.update_conv_state, cache.update_recurrent_state, cache.update_indexer,
                    cache.get_conv_state, cache.get_recurrent_state):  # fmt: skip
        with pytest.raises(CompileError, match="holds keys and values only"):
            refused(None, 0)


def test_a_model_with_another_state_is_refused() -> None:
    """Mamba layers beside attention ask for a state of convolutions."""
    config = transformers.JambaConfig(
        vocab_size=97, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, attn_layer_period=2, attn_layer_offset=1, expert_layer_period=2, num_experts=2,
        use_mamba_kernels=False, mamba_d_state=4, pad_token_id=0,
    )  # fmt: skip
    model = transformers.JambaForCausalLM(config).eval()
    with pytest.raises(CompileError, match="holds keys and values only"), torch.no_grad():
        model(input_ids=tokens(5) % 97, past_key_values=attir.kv.Cache("kv4"), use_cache=True)


def test_an_update_that_fails_leaves_lengths_that_do_not_agree() -> None:
    """Layers before the one that failed hold the tokens; that is said, and a reset makes the cache usable."""
    model, cache = llama(), attir.kv.Cache("kv8")
    ids = tokens(10)
    broken = model.model.layers[1].self_attn.k_proj
    weight = broken.weight.detach().clone()
    with torch.no_grad():
        model(input_ids=ids, past_key_values=cache, use_cache=True)
        broken.weight.fill_(float("nan"))
        with pytest.raises(CompileError, match="numbers of k must be finite"):
            model(input_ids=ids[:, :1], past_key_values=cache, use_cache=True)
        broken.weight.copy_(weight)
        cache.reset()
        model(input_ids=ids, past_key_values=cache, use_cache=True)
    assert cache.get_seq_length() == 10
