"""Masks along a sequence. Each says in one line what it keeps and from which paper it is.

Positions count tokens from 0; query `m` and key `n` of equal number are the same token unless said
otherwise. None of these but `causal`, `sink_window`, `strided_shards` and `vertical_slash` looks at
the order of tokens: combine them with `causal()` where a query must not see what follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .mask_algebra import At, Held, Mask, Need, indices, made_once, whole, wholes, wrong

MOST_BANDS = 32
"""Runs of neighbouring slashes that are compared one by one; more are looked up in a table of distances."""


def causal(offset: int = 0) -> Mask:
    """Keys up to the query's own, `n <= m + offset`; `offset` is how many keys lie before the first query."""
    if isinstance(offset, bool) or not isinstance(offset, int):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise wrong(f"offset must be a whole number, but is {offset!r}")
    return Mask(_causal, (offset,), f"causal({offset})" if offset else "causal()")


def _causal(at: At, offset: int) -> Any:
    _, _, m, n = at
    return n <= m + offset if offset else n <= m


def window(left: int, right: int | None = None) -> Mask:
    """Sliding window: `left` keys that end with the query's own, and `right` that begin with it (else: `left`).

    So `window(4)` keeps |m - n| < 4, and `window(4, 1)` the last 4 keys.
    """
    left = whole("left", left, 1)
    right = left if right is None else whole("right", right, 1)
    return Mask(_window, (left, right), f"window({left})" if right == left else f"window({left}, {right})")


def _window(at: At, left: int, right: int) -> Any:
    _, _, m, n = at
    return (m - n < left) & (n - m < right)


def dilated(window: int, dilation: int) -> Mask:
    """Every `dilation`-th key, `window` of them on each side, the query's own counted in both (Longformer, 2004.05150).

    Keeps distances 0, dilation, ..., (window - 1) * dilation.
    """
    window, dilation = whole("window", window, 1), whole("dilation", dilation, 1)
    return Mask(_dilated, (window * dilation, dilation), f"dilated({window}, {dilation})")


def _dilated(at: At, reach: int, dilation: int) -> Any:
    _, _, m, n = at
    return (m - n < reach) & (n - m < reach) & (m % dilation == n % dilation)


def prefix(length: int | torch.Tensor) -> Mask:
    """The first `length` keys; a tensor (B,) holds the length of each batch. `causal() | prefix(p)` is a prefix LM."""
    if not isinstance(length, torch.Tensor):
        length = whole("length", length)
        return Mask(_prefix, (length,), f"prefix({length})")
    if length.dim() != 1:
        raise wrong(f"length must be a number or a tensor (B,), but has shape {tuple(length.shape)}")
    needs = (Need("batch", length.shape[0]),)
    return Mask(_prefixes, (Held(indices("length", length)),), "prefix(lengths)", needs)


def _prefix(at: At, length: int) -> Any:
    return at[3] < length


def _prefixes(at: At, length: torch.Tensor) -> Any:
    b, _, _, n = at
    return n < length[b]


def document(ids: torch.Tensor | None = None, *, lengths: Sequence[int] | None = None) -> Mask:
    """Keys of the query's own document: equal ids, (N,) or (B, N), or documents of `lengths` behind each other."""
    if (ids is None) == (lengths is None):
        raise wrong("document needs the ids of the tokens' documents, or the lengths of the documents, and not both")
    if lengths is not None:
        found = wholes("lengths", lengths, 1)
        held, text = _document_ids(found), f"document(lengths={list(found)})"
    else:
        if not isinstance(ids, torch.Tensor):
            raise wrong(f"ids must be a tensor of integers, but is {ids!r}; documents of known lengths are `lengths=`")
        held, text = indices("ids", ids), "document(ids)"
    if held.dim() not in (1, 2) or held.shape[-1] == 0:
        raise wrong(f"ids must have shape (N,) or (B, N), but have {tuple(held.shape)}")
    longest = [Need(name, held.shape[-1], at_most=True) for name in ("queries", "keys")]
    if held.dim() == 1:
        return Mask(_document, (Held(held),), text, tuple(longest))
    return Mask(_documents, (Held(held),), text, (Need("batch", held.shape[0]), *longest))


@made_once
def _document_ids(lengths: tuple[int, ...]) -> torch.Tensor:
    """One tensor for equal lengths, so that equal masks are equal."""
    return torch.tensor([i for i, length in enumerate(lengths) for _ in range(length)], dtype=torch.int32)


def _document(at: At, ids: torch.Tensor) -> Any:
    _, _, m, n = at
    return ids[m] == ids[n]


def _documents(at: At, ids: torch.Tensor) -> Any:
    b, _, m, n = at
    return ids[b, m] == ids[b, n]


def sink_window(sinks: int, window: int) -> Mask:
    """The first `sinks` keys and the last `window`, none after the query (StreamingLLM, 2309.17453)."""
    sinks, window = whole("sinks", sinks), whole("window", window, 1)
    return Mask(_sink_window, (sinks, window), f"sink_window({sinks}, {window})")


def _sink_window(at: At, sinks: int, window: int) -> Any:
    _, _, m, n = at
    return (n <= m) & ((n < sinks) | (m - n < window))


def global_window(global_tokens: int, window: int) -> Mask:
    """|m - n| < `window`; the first `global_tokens` tokens see all and are seen by all (Longformer, 2004.05150)."""
    tokens, window = whole("global_tokens", global_tokens), whole("window", window, 1)
    return Mask(_global_window, (tokens, window), f"global_window({tokens}, {window})")


def _global_window(at: At, tokens: int, window: int) -> Any:
    _, _, m, n = at
    return ((m - n < window) & (n - m < window)) | (m < tokens) | (n < tokens)


def block_diagonal(size: int) -> Mask:
    """Tokens in blocks of `size`; a query sees the keys of its own block."""
    size = whole("size", size, 1)
    return Mask(_block_diagonal, (size,), f"block_diagonal({size})")


def _block_diagonal(at: At, size: int) -> Any:
    _, _, m, n = at
    return m // size == n // size


def strided_shards(heads: int, block: int = 64, local: int = 1, stride: int | None = None) -> Mask:
    """Each head sees the last `local` blocks of `block` keys and every `stride`-th block, none after the query.

    Head h sees the blocks j with (j + h + 1) % stride == 0: neighbouring heads see neighbouring blocks, and
    all `heads` together see all keys up to the query (S2-Attention, 2407.17678). That needs stride <= heads,
    which is also what `stride` is where it is not given.
    """
    heads, block, local = whole("heads", heads, 1), whole("block", block, 1), whole("local", local, 1)
    stride = heads if stride is None else whole("stride", stride, 1)
    if stride > heads:
        raise wrong(
            f"a stride of {stride} blocks leaves keys that none of {heads} heads sees: at most {heads} is possible"
        )
    text = f"strided_shards({heads}, {block}, {local}, {stride})"
    return Mask(_strided_shards, (block, local, stride), text, (Need("heads", heads),))


def _strided_shards(at: At, block: int, local: int, stride: int) -> Any:
    _, h, m, n = at
    near = m // block - n // block < local
    return (n <= m) & (near | ((n // block + h + 1) % stride == 0))


def shifted_groups(size: int, heads: int, length: int | None = None) -> Mask:
    """Tokens in groups of `size`; in the second half of the heads the groups begin half a group later.

    This is S2-Attn of LongLoRA (2309.12307), which rolls those heads by size / 2: with the `length` of the
    sequence, a multiple of `size`, the last and the first half group are one, as in the paper, and causal
    order inside it is up to the mask it is combined with. Without `length` the two stay groups of their own.
    """
    size, heads = whole("size", size, 2), whole("heads", heads, 2)
    for name, value in (("size", size), ("heads", heads)):
        if value % 2:
            raise wrong(f"{name} must be even, so that half of it can shift, but is {value}")
    if length is None:
        return Mask(_shifted_groups, (size, heads, 0), f"shifted_groups({size}, {heads})", (Need("heads", heads),))
    length = whole("length", length, size)
    if length % size:
        raise wrong(f"length must be a multiple of the group of {size} for groups to wrap around, but is {length}")
    needs = (Need("heads", heads), Need("queries", length), Need("keys", length))
    return Mask(_shifted_groups, (size, heads, length // size), f"shifted_groups({size}, {heads}, {length})", needs)


def _shifted_groups(at: At, size: int, heads: int, groups: int) -> Any:
    """Shifted groups are numbered from 0 for the first half group on; where it wraps, it is one with the last."""
    _, h, m, n = at
    shift = (h >= heads // 2) * (size // 2)
    own, other = (m + shift) // size, (n + shift) // size
    if not groups:
        return own == other
    return (own == other) | ((own == 0) & (other == groups)) | ((own == groups) & (other == 0))


def vertical_slash(verticals: Sequence[int], slashes: Sequence[int]) -> Mask:
    """Keys of the numbers `verticals` and at the distances m - n of `slashes`, none after the query (2407.02490).

    MInference chooses both lines for each head; they are numbers of tokens here. Of more than MOST_BANDS runs
    of slashes each score asks a table, and no tile is skipped but for what comes after the query.
    """
    columns, distances = (
        tuple(sorted(set(wholes(name, values)))) for name, values in (("verticals", verticals), ("slashes", slashes))
    )
    if not columns and not distances:
        raise wrong("vertical_slash needs at least one vertical or one slash: it would keep no key at all")
    text = f"vertical_slash({list(columns)}, {list(distances)})"
    bands = _runs(distances)
    lines: list[Any] = [Held(_flags(columns)) if columns else None]
    lines += [bands] if len(bands) <= MOST_BANDS else [Held(_flags(distances))]
    return Mask(_vertical_slash, tuple(lines), text)


def _runs(numbers: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Ascending numbers as (first, last) of what follows each other."""
    among = frozenset(numbers)
    first = [x for x in numbers if x - 1 not in among]
    last = [x for x in numbers if x + 1 not in among]
    return tuple(zip(first, last, strict=True))


@made_once
def _flags(numbers: tuple[int, ...]) -> torch.Tensor:
    """Whether 0, 1, 2, ... is among `numbers`; the last entry, for everything larger, is False."""
    among = frozenset(numbers)
    return torch.tensor([i in among for i in range(numbers[-1] + 2)])


def _vertical_slash(at: At, columns: torch.Tensor | None, distances: Any) -> Any:
    _, _, m, n = at
    kept = [] if columns is None else [columns[at_most(n, columns.shape[0] - 1)]]
    if isinstance(distances, torch.Tensor):
        kept.append(distances[at_most(at_least(m - n, 0), distances.shape[0] - 1)])
    else:
        kept += [m - n == first if first == last else (m - n >= first) & (m - n <= last) for first, last in distances]
    either = kept[0]
    for line in kept[1:]:
        either = either | line
    return (n <= m) & either


def at_most(x: Any, limit: Any) -> Any:
    """The smaller one; `limit` is a number, or a tensor where `x` is."""
    return x.clamp(max=limit) if isinstance(x, torch.Tensor) else min(x, limit)


def at_least(x: Any, limit: Any) -> Any:
    """The larger one."""
    return x.clamp(min=limit) if isinstance(x, torch.Tensor) else max(x, limit)
