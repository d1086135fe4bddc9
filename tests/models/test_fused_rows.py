"""Decoders with rotary embeddings and norms of heads: equal results, whatever of them runs inside of attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from numeric.closeness import NATIVE

import attir

transformers: Any = pytest.importorskip("transformers")

SIZES = {
    "vocab_size": 64, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
WHOLE = {**SIZES, "num_key_value_heads": 4}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", SIZES),
    "qwen3": ("Qwen3Config", {**SIZES, "head_dim": 12}),
    "gptj": ("GPTJConfig", {"vocab_size": 64, "n_positions": 64, "n_embd": 48, "n_layer": 2, "n_head": 4,
              "rotary_dim": 8, "bos_token_id": 0, "eos_token_id": 0}),
    "stablelm": ("StableLmConfig", {**WHOLE, "partial_rotary_factor": 0.5}),
    "phi": ("PhiConfig", {**WHOLE, "partial_rotary_factor": 0.5, "qk_layernorm": True}),
    "olmo2": ("Olmo2Config", SIZES),
}  # fmt: skip


@pytest.mark.parametrize("backend", ["interpret", pytest.param("native", marks=NATIVE)])
@pytest.mark.parametrize("name", MODELS)
def test_models_agree_with_eager(name: str, backend: str) -> None:
    kind, sizes = MODELS[name]
    torch.manual_seed(0)  # pyright: ignore[reportUnknownMemberType]
    config = getattr(transformers, kind)(**sizes)
    config._attn_implementation = "eager" if name == "gptj" else "sdpa"
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    tokens = torch.randint(0, 64, (2, 11))
    with torch.no_grad():
        expected = model(tokens, use_cache=False).logits
        exact = model.double()(tokens, use_cache=False).logits
        model.float()
        for fuse in ("never", "always"):
            torch._dynamo.reset()  # pyright: ignore[reportPrivateUsage]
            compiled = attir.compile(model, backend=backend, fuse_rows=fuse, strict=True)
            actual = compiled(tokens, use_cache=False).logits
            bound = 4.0 * (expected - exact).abs().max().item() + 1e-6
            assert (actual - exact).abs().max().item() <= bound
            told = [str(site.plan.get("rows", "")) for site in attir.explain(compiled).sites]
            absorbed = ["query absorbed" in text and "key absorbed" in text for text in told]
            assert absorbed == [fuse == "always"] * 2, told
