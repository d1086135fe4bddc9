"""Section on a whole model: a small Llama of transformers, prefill and decode, end to end and attention alone."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch.profiler import ProfilerActivity, profile

import attir

from . import rivals
from .measuring import Settings, Times, interleaved
from .problems import check
from .results import Bar, Row, Section

LENGTH, ROOM, VOCABULARY = 1024, 1088, 8192
PROFILES = 7
# As graphs and eager code call them; the first that a profile has stands for all attention in it.
ATTENTION = (
    "attir::attention",
    "aten::scaled_dot_product_attention",
    "aten::_scaled_dot_product_flash_attention_for_cpu",
)
Model = Callable[..., Any]
Step = Callable[[Model], torch.Tensor]


def model() -> Any:
    """Four layers with random weights: width 512, 8 query heads and 4 key heads of 64."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = cast(Any, LlamaConfig)(
        hidden_size=512, intermediate_size=1408, num_hidden_layers=4, num_attention_heads=8, num_key_value_heads=4,
        head_dim=64, vocab_size=VOCABULARY, max_position_embeddings=4096, attn_implementation="sdpa",
    )  # fmt: skip
    cast(Any, torch).manual_seed(0)
    return LlamaForCausalLM(config).eval()


def prefill_step() -> Step:
    """The logits after `LENGTH` tokens."""
    tokens = _tokens(LENGTH)
    return lambda model: model(input_ids=tokens, use_cache=False, logits_to_keep=1).logits


def decode_step(whole: Any) -> Step:
    """The logits of one token after `LENGTH` in a static cache; each call starts where the first did."""
    from transformers import StaticCache

    cache = StaticCache(config=whole.config, max_cache_len=ROOM)
    whole(input_ids=_tokens(LENGTH), past_key_values=cache, use_cache=True, logits_to_keep=1)
    token, position = _tokens(1), torch.tensor([[LENGTH]])

    def step(model: Model) -> torch.Tensor:
        for layer in cast(Any, cache).layers:
            layer.cumulative_length.fill_(LENGTH)
        return model(input_ids=token, past_key_values=cache, position_ids=position, use_cache=True).logits

    return step


def _tokens(count: int) -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (1, count), generator=torch.Generator().manual_seed(count))


def models(settings: Settings) -> Section:
    """attir with the rest eager beside eager, and with the rest by Inductor beside torch.compile."""
    columns = ("× eager", "× torch.compile", "attention × eager", "attention × torch.compile")
    title = f"Llama of 4 layers, width 512, f32: prefill of {LENGTH} tokens, decode of one after {LENGTH}"
    section = Section("model", title, tuple(Bar(column, 1) for column in columns))
    whole = model()
    for phase in ("prefill", "decode"):
        step = prefill_step() if phase == "prefill" else decode_step(whole)
        exact = copy.deepcopy(whole).double()
        expected = (prefill_step() if phase == "prefill" else decode_step(exact))(exact)
        for threads in (1,) if settings.quick else settings.thread_counts:
            print(f"model: {phase}, threads {threads}", file=sys.stderr, flush=True)
            section.rows.append(_row(phase, whole, step, expected, threads, settings.seconds))
    return section


def _row(phase: str, whole: Any, step: Step, expected: torch.Tensor, threads: int, seconds: float) -> Row:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        ways = _ways(whole)
        error = 0.0
        for name, way in ways.items():
            error = max(error, check(step(way), expected, "f32", f"{phase} by {name}"))
        _require_attir(ways)
        times = interleaved({name: lambda way=way: step(way) for name, way in ways.items()}, threads, 3 * seconds)
        attention = attention_times(ways, step)
    finally:
        torch.set_num_threads(before)
    figures = {f"{name} ms": 1e3 * times.median(name) for name in times.seconds}
    figures |= {f"attention of {name} ms": 1e3 * attention.median(name) for name in attention.seconds}
    for ours, theirs in (("attir", "eager"), ("attir, Inductor", "torch.compile")):
        figures[f"× {theirs}"] = times.ratio(ours, theirs)
        figures[f"attention × {theirs}"] = attention.ratio(ours, theirs)
    raw = {**times.seconds, **{f"attention of {name}": s for name, s in attention.seconds.items()}}
    return Row({"threads": str(threads), "phase": phase}, {**figures, "error": error}, times.note, raw)


def _ways(whole: Any) -> Mapping[str, Model]:
    rivals.forget_everything()
    return {
        "eager": whole,
        "torch.compile": rivals.torch_compile(whole, dynamic=False),
        "attir": attir.compile(whole, backend="native", strict=True, dynamic=False),
        "attir, Inductor": attir.compile(whole, backend="native", rest="inductor", strict=True, dynamic=False),
    }


def _require_attir(ways: Mapping[str, Model]) -> None:
    for name, way in ways.items():
        if name.startswith("attir"):
            rivals.require_native(way, 4)


def attention_times(ways: Mapping[str, Model], step: Step) -> Times:
    """Seconds inside attention ops in a call, by PyTorch's profiler."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(PROFILES):
        for name, way in ways.items():
            with profile(activities=[ProfilerActivity.CPU]) as profiled:
                step(way)
            seconds[name].append(attention_seconds(profiled))
    return Times(seconds)


def attention_seconds(profiled: Any) -> float:
    """What a profile tells of attention; an error where it tells nothing."""
    totals = {event.key: event.cpu_time_total for event in profiled.key_averages()}
    found = next((totals[name] for name in ATTENTION if name in totals), None)
    if found is None:
        raise SystemExit(f"the profile of a model has none of {', '.join(ATTENTION)}")
    return 1e-6 * float(found)
