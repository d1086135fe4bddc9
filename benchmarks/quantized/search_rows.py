"""What the search of `quantize="auto"` takes on a model of four layers, and whether its budget holds elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch

import attir
from benchmarks.grouped import Row, Settings

from .programs import relative

SECONDS, LAYERS, VOCABULARY = 120.0, 4, 512
BATCHES, HELD_OUT = 3, 4


def search(settings: Settings) -> Iterator[Row]:
    """A Llama with random weights, for several budgets."""
    for budget in (0.02,) if settings.quick else (0.05, 0.02, 0.005, 1e-6):
        for length in settings.chosen((512,), (512, 1024)):
            yield _search(budget, length)


def _search(budget: float, length: int) -> Row:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=512, intermediate_size=1024, num_hidden_layers=LAYERS,
        num_attention_heads=8, num_key_value_heads=2, head_dim=128, max_position_embeddings=4096, use_cache=False,
    )  # fmt: skip
    model, made = LlamaForCausalLM(config).eval().requires_grad_(False), torch.Generator().manual_seed(1)
    for name, weight in model.named_parameters():
        # Of small weights scores are all but equal; a trained model attends to something.
        attends = name.endswith(("q_proj.weight", "k_proj.weight"))
        if weight.dim() > 1:
            weight.copy_(torch.randn(weight.shape, generator=made) * (0.12 if attends else 0.02))
    batches = [torch.randint(0, VOCABULARY, (1, length), generator=made) for _ in range(BATCHES + HELD_OUT)]
    run = attir.compile(model, quantize="auto", max_error=budget)
    started = time.perf_counter()
    attir.calibrate(run, [{"input_ids": b} for b in batches[:BATCHES]])
    seconds = time.perf_counter() - started
    exact = attir.compile(model)  # eager attention rounds in another order
    worst = max(relative(run(input_ids=b).logits, exact(input_ids=b).logits) for b in batches[BATCHES:])
    taken = [line for site in attir.explain(run).sites for line in site.quantize[:1]]
    figures = {"seconds": seconds, "error on other inputs": worst, "budget": budget, "takes": "; ".join(taken)}
    held = seconds <= SECONDS and worst <= budget
    return Row(f"search, {LAYERS} layers, {length} tokens", figures, f"<= {SECONDS:g} s, within the budget", held)
