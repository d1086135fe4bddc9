"""How a row of the zoo becomes a small randomly initialised model, and what that model is called with."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch

from attir.compiler.target import spread_weights

Inputs = dict[str, torch.Tensor]
LENGTH = 21
"""Tokens of a sequence; not a multiple of anything a kernel likes."""
PADDINGS = ("none", "left", "right")
FORMS = ("eager", "sdpa")

BASE: Mapping[str, Any] = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 128, "use_cache": False, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1, "max_position_embeddings": 64,
    "ffn_dim": 64, "d_kv": 16, "d_ff": 64, "encoder_layers": 1, "decoder_layers": 1, "num_decoder_layers": 1,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
    "image_size": 32, "patch_size": 8, "sliding_window": 7, "moe_intermediate_size": 32, "num_local_experts": 4,
    "n_routed_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "embedding_size": 64, "rotary_dim": 8,
    "max_source_positions": 64, "max_target_positions": 64,
}  # fmt: skip
"""What every row starts from; a model type gets those of these settings that its config knows."""


@dataclass(frozen=True)
class Architecture:
    """One row: a model built from `config` by `build`, and what it is called with under a padding."""

    name: str
    build: Callable[[str], Any]
    """The model in an attention form ("eager", "sdpa"); raises ValueError where it has no such form."""
    inputs: Callable[[str], Inputs]
    """The arguments under a padding; those of "none" where the model takes no mask."""
    paddings: Sequence[str] = ("none",)

    def model(self, form: str = "eager", dtype: torch.dtype = torch.float32) -> Any:
        """The model in evaluation mode, with weights that spread its scores."""
        torch.manual_seed(0)  # pyright: ignore[reportUnknownMemberType]
        model = self.build(form).eval().requires_grad_(False)
        redraw(model)
        return model.to(dtype)


UNSCALED = ("SelfAttention.q.weight", "EncDecAttention.q.weight")
"""Queries of T5, which does not divide scores by √d."""


def redraw(model: Any) -> None:
    """Draw weights of which scores spread by about 1, also where they are no matrices (convolutions, sinks).

    Biases and the weights of norms, which start as zeros and ones, are drawn too, so that leaving one out shows.
    """
    spread_weights(model)
    generator = _generator(2)
    for name, parameter in model.named_parameters():
        drawn = torch.randn(parameter.shape, generator=generator)
        fan_in = max(parameter.shape) if parameter.dim() == 3 else math.prod(parameter.shape[1:])
        if parameter.dim() > 2:
            parameter.copy_(drawn * ((1 if parameter.dim() == 3 else 2) / fan_in) ** 0.5)
        elif "sink" in name:
            parameter.copy_(drawn)
        elif name.endswith(UNSCALED):
            parameter.mul_(parameter.shape[0] ** -0.25)
        elif parameter.dim() == 1 and name.endswith(("bias", "weight")):
            parameter.add_(drawn * 0.2)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)  # pyright: ignore[reportUnknownMemberType]


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=_generator(seed))


def tokens(length: int = LENGTH, seed: int = 1) -> torch.Tensor:
    return torch.randint(3, 100, (2, length), generator=_generator(seed))


def padding_mask(padding: str, length: int = LENGTH) -> torch.Tensor:
    """A mask [2, length] of ones, whose second row lacks a third of them on the side `padding`."""
    mask = torch.ones(2, length, dtype=torch.long)
    if padding == "left":
        mask[1, : length // 3] = 0
    elif padding == "right":
        mask[1, -(length // 3) :] = 0
    return mask


def _masked(inputs: Inputs, padding: str, name: str, length: int) -> Inputs:
    return inputs if padding == "none" else {**inputs, name: padding_mask(padding, length)}


def text_inputs(padding: str) -> Inputs:
    return _masked({"input_ids": tokens()}, padding, "attention_mask", LENGTH)


def unpadded_text_inputs(padding: str) -> Inputs:
    del padding
    return {"input_ids": tokens()}


def pair_inputs(padding: str) -> Inputs:
    inputs = {"input_ids": tokens(), "decoder_input_ids": tokens(9, 2)}
    return _masked(inputs, padding, "attention_mask", LENGTH)


def image_inputs(padding: str) -> Inputs:
    del padding
    return {"pixel_values": random(2, 2, 3, 32, 32)}


def of_shapes(**shapes: Sequence[int]) -> Callable[[str], Inputs]:
    """Inputs of real numbers; they take no mask."""

    def inputs(padding: str) -> Inputs:
        del padding
        return {name: random(seed, *shape) for seed, (name, shape) in enumerate(shapes.items())}

    return inputs


def heard_inputs(**shapes: Sequence[int]) -> Callable[[str], Inputs]:
    """Inputs of an encoder of sounds whose decoder gets tokens."""
    sound = of_shapes(**shapes)
    return lambda padding: {**sound(padding), "decoder_input_ids": tokens(9, 2)}


def wave_inputs(padding: str) -> Inputs:
    return _masked({"input_values": random(3, 2, 2000)}, padding, "attention_mask", 2000)


def transformers_model(kind: str, cls: str, config: Mapping[str, Any], form: str) -> Any:
    """The transformers model of type `kind`; settings that its config does not know are an error."""
    transformers: Any = importlib.import_module("transformers")
    blank = transformers.AutoConfig.for_model(kind)
    unknown = [k for k in config if not hasattr(blank, k) and k != "experts_implementation"]
    assert not unknown, f"a {kind} config has no {unknown}"
    experts = {"experts_implementation": "batched_mm"} if _has_experts(blank) else {}
    names: Mapping[str, str] = blank.attribute_map
    base = {names.get(k, k): v for k, v in BASE.items() if _is_setting(blank, k)}
    given = {names.get(k, k): v for k, v in config.items()}
    settings = transformers.AutoConfig.for_model(kind, **{**base, **experts, **given})
    family = getattr(transformers, cls)
    build = family.from_config if cls.startswith("Auto") else family._from_config
    return build(settings, attn_implementation=form)


def _is_setting(config: Any, name: str) -> bool:
    """Whether a config has a single setting of that name, which is neither derived nor a list by layers."""
    derived = isinstance(getattr(cast(object, config).__class__, name, None), property)
    return not derived and hasattr(config, name) and not isinstance(getattr(config, name), list | tuple)


def _has_experts(config: Any) -> bool:
    names = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
    return any(getattr(config, name, None) for name in names)


def row(
    kind: str,
    inputs: Callable[[str], Inputs],
    paddings: Sequence[str],
    name: str = "",
    cls: str = "AutoModel",
    **config: Any,
) -> Architecture:
    return Architecture(name or kind, lambda form: transformers_model(kind, cls, config, form), inputs, paddings)


def decoder(kind: str, **config: Any) -> Architecture:
    return row(kind, text_inputs, PADDINGS, **config)


def encoder(kind: str, **config: Any) -> Architecture:
    return row(kind, text_inputs, ("none", "right"), **config)


def pair(kind: str, **config: Any) -> Architecture:
    return row(kind, pair_inputs, ("none", "right"), **config)


def image(kind: str, **config: Any) -> Architecture:
    return row(kind, config.pop("inputs", image_inputs), ("none",), **config)


def wave(kind: str, **config: Any) -> Architecture:
    small: dict[str, Any] = {
        "conv_dim": (32, 32), "conv_stride": (10, 10), "conv_kernel": (10, 10), "num_feat_extract_layers": 2,
        "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "mask_time_prob": 0.0,
    }  # fmt: skip
    return row(kind, wave_inputs, ("none", "right"), **{**small, **config})


def both_inputs(padding: str) -> Inputs:
    return {**image_inputs(padding), **text_inputs(padding)}


def diffusion_model(cls: str, config: Mapping[str, Any], form: str) -> Any:
    """The diffusers model `cls`; "eager" is its attention by products and softmax, where it can be had."""
    diffusers: Any = importlib.import_module("diffusers")
    model = getattr(diffusers, cls)(**config)
    if form == "eager":
        processors: Any = importlib.import_module("diffusers.models.attention_processor")
        attentions = [m for m in model.modules() if hasattr(m, "set_processor")]
        if not attentions or any(type(m.processor) is not processors.AttnProcessor2_0 for m in attentions):
            raise ValueError(f"{cls} has only scaled_dot_product_attention")
        for module in attentions:
            module.set_processor(processors.AttnProcessor())
    return model


def diffusion(name: str, cls: str, inputs: Mapping[str, Sequence[int]], **config: Any) -> Architecture:
    """A diffusers model called with tensors of these shapes; a `timestep` is [2] or a class label is a number."""

    def arguments(padding: str) -> Inputs:
        del padding
        whole = {"timestep", "timesteps", "class_labels", "encoder_attention_mask"}
        return {k: torch.ones(tuple(s), dtype=torch.long) if k in whole else random(i, *s)
                for i, (k, s) in enumerate(inputs.items())}  # fmt: skip

    return Architecture(name, lambda form: diffusion_model(cls, config, form), arguments)
