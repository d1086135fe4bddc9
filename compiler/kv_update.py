"""How calls reach a cache in few bits: the operator `attir::kv_update`, and the cache that users hold.

A graph cannot hold a cache, so it holds a number. `attir::kv_update(k, v, handle, tokens)` adds tokens to the
layer of a cache behind `handle` and gives all keys and values as numbers, which is right everywhere. Where the
two are nothing but k and v of an attention, `kv_cached_attention` computes that without making them.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias, cast
from weakref import WeakValueDictionary

import torch

from ..ir.diagnostics import error
from .custom_op import attir_library, below_autograd
from .kv_storage import Plan, Store

if TYPE_CHECKING:
    from .schemes import Scheme

Schemes: TypeAlias = "str | Scheme"
LAYERS = 1 << 16
"""More layers than a model has: handle = number of the cache * LAYERS + layer."""

UPDATE_SCHEMA = "kv_update(Tensor k, Tensor v, Tensor handle, Tensor tokens) -> (Tensor keys, Tensor values)"
"""`tokens` is (N, 0): a tensor without elements whose size tells PyTorch how many tokens there are."""


class Owner:
    """The layers of one cache, which come into being as they are first written to."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.stores = plan, dict[int, Store]()
        self.number = next(_numbers)
        _owners[self.number] = self


_numbers = itertools.count(1)
_owners: WeakValueDictionary[int, Owner] = WeakValueDictionary()


@contextmanager
def written(handle: torch.Tensor, tokens: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> Generator[Store]:
    """The layer behind a handle, for k and v to be added to; a new one is the cache's once that went well.

    CompileError unless the layer holds as many tokens as a call reckons with.
    """
    number, layer = divmod(int(handle), LAYERS)
    owner = _owners.get(number)
    if owner is None:
        raise error("the cache of this call is gone; keep the object that attir.kv gave as long as calls use it")
    store = owner.stores.get(layer)
    if store is None:
        check_pair(k, v)
        store = Store(owner.plan, k, v)
    if store.length != tokens.shape[0]:
        raise error(
            f"layer {layer} of the cache holds {store.length} tokens, but {tokens.shape[0]} are reckoned with: "
            "an earlier call failed between its layers, or one call updates a layer twice; reset the cache"
        )
    yield store
    owner.stores[layer] = store


def check_pair(k: torch.Tensor, v: torch.Tensor) -> None:
    """Fail on tensors that no cache can begin with."""
    if k.dim() != 4 or v.dim() != 4 or k.shape[:3] != v.shape[:3]:
        raise error(
            "k and v must have four axes and agree in batch, heads and length, "
            f"but have {tuple(k.shape)} and {tuple(v.shape)}"
        )
    if not k.dtype.is_floating_point or k.element_size() < 2 or (k.dtype, k.device) != (v.dtype, v.device):
        raise error(
            "k and v must be of one dtype of 16, 32 or 64 bits on one device, "
            f"but are {k.dtype} on {k.device} and {v.dtype} on {v.device}"
        )
    if 0 in (k.shape[0], k.shape[1], k.shape[3], v.shape[3]):
        raise error(f"k and v must have a batch, heads and dimensions, but are {tuple(k.shape)} and {tuple(v.shape)}")


def _update(
    k: torch.Tensor, v: torch.Tensor, handle: torch.Tensor, tokens: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    with written(handle, tokens, k, v) as store:
        return store.update(k, v)


def _update_without_gradients(
    k: torch.Tensor, v: torch.Tensor, handle: torch.Tensor, tokens: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    if torch.is_grad_enabled() and (k.requires_grad or v.requires_grad):
        raise error(
            "numbers in few bits have no gradient, but k or v requires one: call under torch.no_grad() or "
            "requires_grad_(False)"
        )
    with below_autograd():
        return kv_update_op()(k, v, handle, tokens)


def _fake_update(
    k: torch.Tensor, v: torch.Tensor, handle: torch.Tensor, tokens: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    length = tokens.shape[0] + k.shape[2]
    return k.new_empty((*k.shape[:2], length, k.shape[3])), v.new_empty((*v.shape[:2], length, v.shape[3]))


@cache
def kv_update_op() -> Any:
    """The overload `torch.ops.attir.kv_update.default`, defined on first use."""
    from torch.fx.node import has_side_effect

    library = attir_library()
    library.define(UPDATE_SCHEMA, tags=(torch.Tag.pt2_compliant_tag,))
    for key in ("CPU", "CUDA"):
        library.impl("kv_update", _update, key)
    library.impl("kv_update", _update_without_gradients, "Autograd")
    library._register_fake("kv_update", _fake_update)
    found = torch.ops.attir.kv_update.default
    has_side_effect(cast(Any, found))
    return found


class QuantizedCache:
    """Keys and values of one layer in few bits, to which tokens are added in place.

    Made by `attir.kv.quantize`. In what `attir.compile` compiles, `k, v = cache.update(k_new, v_new)` and attention
    over k and v become attention over what is stored.
    """

    def __init__(self, owner: Owner, handle: torch.Tensor, layer: int = 0) -> None:
        # PyTorch traces this for the layers of a model, so it makes nothing but tensors.
        self.owner, self.handle, self.layer = owner, handle, layer
        self.tokens = torch.empty((0, 0), device="cpu")

    def update(self, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Add tokens k (B, K, M, D) and v (B, K, M, E); all keys and values, (B, K, N + M, D) and (B, K, N + M, E).

        What an empty cache is given is returned as it is: the first tokens attend to each other exactly (KIVI).
        """
        keys, values = torch.ops.attir.kv_update.default(k, v, self.handle, self.tokens)
        self.tokens = self.tokens.new_empty((self.tokens.shape[0] + k.shape[2], 0))
        return keys, values

    def append(self, k: torch.Tensor, v: torch.Tensor) -> None:
        """Add tokens. CompileError, and nothing has changed, on other sizes, dtypes or devices and nan or infinity."""
        with written(self.handle, self.tokens, k, v) as store:
            store.append(k, v)
        self._count()

    @property
    def store(self) -> Store | None:
        """What holds the tokens; None before the first."""
        return self.owner.stores.get(self.layer)

    def keys(self) -> torch.Tensor:
        """All keys (B, K, N, D) as numbers."""
        return self._filled().numbers()[0]

    def values(self) -> torch.Tensor:
        """All values (B, K, N, E) as numbers."""
        return self._filled().numbers()[1]

    def __len__(self) -> int:
        return self.tokens.shape[0]

    @property
    def bytes(self) -> int:
        """What the tokens take: codes, scales and zeros by their formula, and what is kept as it is."""
        return 0 if self.store is None else self.store.bytes

    @property
    def allocated_bytes(self) -> int:
        """What is allocated, with room for tokens to come."""
        return 0 if self.store is None else self.store.allocated_bytes

    def crop(self, length: int) -> None:
        """Keep the first `length` tokens; with a negative one, all but so many."""
        wanted = length if length >= 0 else len(self) + length
        if wanted < 0:
            raise error(f"there are {len(self)} tokens, of which {-length} cannot be dropped")
        if self.store is not None:
            self.store.crop(wanted)
        self._count()

    def reset(self) -> None:
        """Forget all tokens, and their sizes."""
        self.owner.stores.pop(self.layer, None)
        self._count()

    def select(self, indices: torch.Tensor | Sequence[int]) -> None:
        """Batches in another order, some of them several times or not at all: what beam search asks for."""
        if (store := self.store) is None:
            return
        chosen = torch.as_tensor(indices, device=store.keys_like.device)
        batch = store.keys_like.shape[0]
        if chosen.dtype == torch.bool and chosen.shape == (batch,):
            chosen = chosen.nonzero().flatten()
        whole = not (chosen.dtype.is_floating_point or chosen.dtype == torch.bool) and chosen.dim() == 1
        if not whole or not chosen.numel() or int(chosen.min()) < -batch or int(chosen.max()) >= batch:
            raise error(f"indices must be whole numbers below the batch size {batch}, but are {indices}")
        store.select(chosen.long() % batch)

    def _filled(self) -> Store:
        if self.store is None:
            raise error("the cache is empty, and knows no sizes; expected tokens first")
        return self.store

    def _count(self) -> None:
        self.tokens = torch.empty((0 if self.store is None else self.store.length, 0), device="cpu")


def quantize(
    k: torch.Tensor,
    v: torch.Tensor,
    scheme: Schemes = "kv4",
    *,
    sinks: int = 0,
    recent: int = 0,
    ages: Mapping[int, Schemes] | None = None,
    scale_dtype: torch.dtype | None = None,
    check: bool = True,
) -> QuantizedCache:
    """A cache of k (B, K, N, D) and v (B, K, N, E) in few bits, which tokens can be added to; N may be 0.

    `scheme` is "kv1" to "kv8", "kv_fp8" or an `attir.quantization.Scheme` of keys and values. The first `sinks` tokens
    and at least the `recent` newest ones stay as they are; so do the newest whose group, that shares a scale,
    is not full. `ages` are schemes for tokens that are farther behind the newest, as in {1024: "kv2"}: they
    are quantised anew from what is stored (SAQ). Scales are float16 beside 16-bit numbers and float32 beside others,
    unless `scale_dtype` is given. Numbers that are not finite are refused; without `check`, which waits for the
    device, they make nan of all that shares their scale.
    """
    owner = Owner(plan(scheme, sinks=sinks, recent=recent, ages=ages, scale_dtype=scale_dtype, check=check))
    check_pair(k, v)
    kv_update_op()
    found = QuantizedCache(owner, torch.tensor(owner.number * LAYERS, device="cpu"))
    found.append(k, v)
    return found


def plan(
    scheme: Schemes,
    *,
    sinks: int = 0,
    recent: int = 0,
    ages: Mapping[int, Schemes] | None = None,
    scale_dtype: torch.dtype | None = None,
    check: bool = True,
) -> Plan:
    """What `quantize` describes; CompileError on what is unknown or does not fit."""
    from .schemes import scheme as named

    def known(wanted: Schemes) -> Scheme:
        return named(wanted) if isinstance(wanted, str) else wanted

    older = sorted((ages or {}).items())
    return Plan(((0, known(scheme)), *((age, known(s)) for age, s in older)), sinks, recent, scale_dtype, check)
