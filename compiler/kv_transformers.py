"""A cache in few bits with the interface of transformers' caches; the only file here that imports transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import torch
from transformers.cache_utils import Cache as TransformersCache
from transformers.cache_utils import CacheLayerMixin

from ..ir.diagnostics import error
from .kv_update import LAYERS, Owner, QuantizedCache, Schemes, kv_update_op, plan


class QuantizedLayer(CacheLayerMixin):
    """The cache of one layer of a model; transformers calls what is here."""

    is_compileable = False
    is_croppable = False
    is_sliding = False
    supports_early_init = False

    def __init__(self, cached: QuantizedCache) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]
        self.cached = cached

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing: the first tokens bring the sizes."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add tokens; all keys and values."""
        self.is_initialized = True
        return self.cached.update(key_states, value_states)

    def get_seq_length(self) -> int:
        return self.cached.tokens.shape[0]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """How many keys a mask is for, and the position of the first."""
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        """-1: there is no most."""
        return -1

    def reset(self) -> None:
        self.cached.reset()
        self.is_initialized = False

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        self.cached.select(beam_idx)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        self.cached.select(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        if (store := self.cached.store) is not None:
            self.cached.select(torch.arange(store.keys_like.shape[0]).repeat_interleave(repeats))

    def crop(self, tokens_to_remove: int) -> None:
        """Remove so many of the newest tokens, a number that transformers gives as a negative one."""
        if tokens_to_remove > 0:
            raise error(f"transformers crops by the negative number of tokens to remove, but it is {tokens_to_remove}")
        self.cached.crop(max(0, len(self.cached) + tokens_to_remove))

    def offload(self) -> None:
        _refuse("moves no layers between devices")

    def prefetch(self) -> None:
        _refuse("moves no layers between devices")


class Cache(TransformersCache):
    """A cache for `model.generate(..., past_key_values=attir.kv.Cache("kv4"))` of transformers, in few bits.

    The parameters are those of `attir.kv.quantize`; they are the same for all layers. Layers with a sliding window
    keep all tokens, and the model's mask hides those outside of it. Models with a state other than keys and values
    are refused where they ask for it. A crop within a group of tokens that share a scale leaves numbers of
    that group to be quantised a second time.
    """

    layers: list[Any]

    def __init__(
        self,
        scheme: Schemes = "kv4",
        *,
        sinks: int = 0,
        recent: int = 0,
        ages: Mapping[int, Schemes] | None = None,
        scale_dtype: torch.dtype | None = None,
        check: bool = True,
    ) -> None:
        super().__init__(layers=[])
        self.owner = Owner(plan(scheme, sinks=sinks, recent=recent, ages=ages, scale_dtype=scale_dtype, check=check))
        self.handle = torch.tensor(self.owner.number * LAYERS, device="cpu")
        kv_update_op()

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add tokens to a layer; all of its keys and values."""
        while len(self.layers) <= layer_idx:
            layer = len(self.layers)
            self.layers.append(QuantizedLayer(QuantizedCache(self.owner, self.handle + layer, layer)))
        return self.layers[layer_idx].update(key_states, value_states)

    @property
    def bytes(self) -> int:
        """What the tokens of all layers take."""
        return sum(layer.cached.bytes for layer in self.layers)

    @property
    def is_croppable(self) -> bool:
        """No: see above."""
        return False

    def get_conv_state(self, *args: Any, **kwargs: Any) -> NoReturn:
        _refuse("holds keys and values only, but the model keeps a state of convolutions")

    def get_recurrent_state(self, *args: Any, **kwargs: Any) -> NoReturn:
        _refuse("holds keys and values only, but the model keeps a recurrent state")

    def update_conv_state(self, *args: Any, **kwargs: Any) -> NoReturn:
        _refuse("holds keys and values only, but the model keeps a state of convolutions")

    def update_recurrent_state(self, *args: Any, **kwargs: Any) -> NoReturn:
        _refuse("holds keys and values only, but the model keeps a recurrent state")

    def update_indexer(self, *args: Any, **kwargs: Any) -> NoReturn:
        _refuse("holds keys and values only, but the model keeps an index of keys")

    def early_initialization(self, *args: Any, **kwargs: Any) -> NoReturn:
        _refuse("gets its sizes from the first tokens")


def _refuse(why: str) -> NoReturn:
    raise error(f"a cache in few bits {why}")
