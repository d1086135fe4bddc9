"""More kinds of transformers models, randomly initialised: every site fused, results as eager's."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch

import attir
from attir.compiler.target import load_target, spread_weights

transformers: Any = pytest.importorskip("transformers")
SIZES: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 128,
}  # fmt: skip
GROUPED: dict[str, Any] = {**SIZES, "num_key_value_heads": 2, "use_cache": False}
TOKENS = torch.randint(3, 100, (2, 21), generator=torch.Generator().manual_seed(1))
PIXELS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
SOUND = torch.randn(2, 8, 48, generator=torch.Generator().manual_seed(3))

WHISPER: dict[str, Any] = {
    "d_model": 64, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "vocab_size": 128,
    "max_source_positions": 24, "num_mel_bins": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "decoder_start_token_id": 1, "use_cache": False,
}  # fmt: skip
MODELS: Mapping[str, tuple[dict[str, Any], int]] = {
    "mistral": ({**GROUPED, "sliding_window": 7}, 2),
    "qwen2": (GROUPED, 2),
    "gemma2": ({**GROUPED, "head_dim": 16, "sliding_window": 7}, 2),
    "mixtral": ({**GROUPED, "num_local_experts": 4, "experts_implementation": "batched_mm"}, 2),
    "phi": (GROUPED, 2),
    "opt": ({**SIZES, "ffn_dim": 64, "word_embed_proj_dim": 64, "use_cache": False}, 2),
    "bloom": ({"hidden_size": 64, "n_layer": 2, "n_head": 4, "vocab_size": 128, "use_cache": False}, 2),
    "roberta": (SIZES, 2),
    "distilbert": ({"dim": 64, "hidden_dim": 64, "n_layers": 2, "n_heads": 4, "vocab_size": 128}, 2),
    "t5": ({"d_model": 64, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 4, "vocab_size": 128}, 3),
    "whisper": (WHISPER, 3),
    "vit": ({**SIZES, "image_size": 32, "patch_size": 8}, 2),
}
ALWAYS = {("mistral", "eager"), ("mixtral", "sdpa"), ("bloom", "eager"), ("t5", "eager"), ("vit", "sdpa")}
"""The others run with the slow tests."""


def inputs_of(kind: str) -> dict[str, torch.Tensor]:
    if kind == "vit":
        return {"pixel_values": PIXELS}
    if kind == "whisper":
        return {"input_features": SOUND, "decoder_input_ids": TOKENS[:, :9]}
    return {"input_ids": TOKENS, **({"decoder_input_ids": TOKENS[:, :9]} if kind == "t5" else {})}


def model_of(kind: str, implementation: str) -> Any:
    config = transformers.AutoConfig.for_model(kind, **MODELS[kind][0])
    model = transformers.AutoModel.from_config(config, attn_implementation=implementation).eval()
    spread_weights(model.requires_grad_(False))
    return model


CASES = [
    pytest.param(kind, implementation, marks=() if (kind, implementation) in ALWAYS else pytest.mark.slow)
    for kind in MODELS
    for implementation in ("eager", "sdpa")
    if (kind, implementation) not in {("gemma2", "sdpa"), ("bloom", "sdpa")}
]


@pytest.mark.parametrize("kind, implementation", CASES)
def test_every_site_is_fused_and_agrees(kind: str, implementation: str) -> None:
    torch._dynamo.reset()
    model, inputs = model_of(kind, implementation), inputs_of(kind)
    compiled = attir.compile(model, strict=True)
    with torch.no_grad():
        ours, eager = (run(**inputs).last_hidden_state for run in (compiled, model))
        wide = {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}
        # Grouped products of experts have no float64 form; there eager stands for it.
        precise = eager if kind == "mixtral" else copy.deepcopy(model).double()(**wide).last_hidden_state
    assert [s.status for s in attir.explain(compiled).sites] == ["fused"] * MODELS[kind][1]
    error, eager_error = ((x.double() - precise).abs().max().item() for x in (ours, eager))
    # A double model still takes its softmax in f32, so the reference is no better than a few units of that.
    assert error <= 2 * eager_error + 4e-6 * precise.abs().max().item()


def test_a_sliding_window_of_a_model_skips_keys() -> None:
    """Mistral's mask adds finfo.min, but no row is empty, so it becomes a mask."""
    torch._dynamo.reset()
    compiled = attir.compile(model_of("mistral", "eager"), strict=True)
    with torch.no_grad():
        compiled(input_ids=TOKENS)
    assert all(" | " in s.form and "n > m - 7" in s.form for s in attir.explain(compiled).sites)


@pytest.mark.parametrize("cache", [None, "static"])
@pytest.mark.parametrize("implementation", ["eager", pytest.param("sdpa", marks=pytest.mark.slow)])
def test_generation_with_a_cache(implementation: str, cache: str | None) -> None:
    torch._dynamo.reset()
    model: Any = load_target("hf:llama", {"attn_implementation": implementation, "use_cache": True}).call
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = 0, None
    arguments: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False, "cache_implementation": cache}
    expected = model.generate(TOKENS, **arguments)
    model.forward = attir.compile(model.forward, strict=True)
    assert torch.equal(model.generate(TOKENS, **arguments), expected)
    report = attir.explain(model.forward)
    assert len(report.graphs) <= 3 and all(s.status == "fused" for s in report.sites), str(report)
    assert all("heads 4/2" in s.form for s in report.sites)
