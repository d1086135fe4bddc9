"""Keys and values of a growing cache in few bits: which tokens are kept how, and how they move as they get older.

Knows no attention and nothing of how calls reach a cache. In the order of their tokens a cache has segments:

    sinks | quantised, the oldest tokens first, in fewer and fewer bits with age | tail

Sinks and tail are kept as they are. New tokens join the tail, and leave it by whole groups: the tokens that share a
scale, as KIVI's keys do (arXiv 2402.02750). What was quantised is never read back but where it gets older.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from ..ir.diagnostics import error
from ..ir.storage import Storage
from .kv_rows import Numbers

if TYPE_CHECKING:
    from .schemes import Scheme


@dataclass(frozen=True)
class Format:
    """How tokens that are more than `age` behind the newest are kept; None keeps what is given as it is."""

    key: Storage | None = None
    value: Storage | None = None
    age: int = 0

    @property
    def group(self) -> int:
        """Tokens that can only be quantised together."""
        sizes = [1]
        for storage in filter(None, (self.key, self.value)):
            sizes += [storage.tokens, storage.block if storage.packed and storage.axis == "tokens" else 1]
        return math.lcm(*sizes)


@dataclass(frozen=True)
class Plan:
    """What a cache keeps how, for heads of any width: `schemes` by age, the youngest first.

    The first `sinks` tokens and at least the `recent` newest ones are kept as they are. Scales are of
    `scale_dtype`, by default float16 beside 16-bit numbers and float32 beside others. With `check` numbers that are
    not finite are refused; without, all that shares a scale with one becomes nan.
    """

    schemes: tuple[tuple[int, Scheme], ...]
    sinks: int = 0
    recent: int = 0
    scale_dtype: torch.dtype | None = None
    check: bool = True

    def __post_init__(self) -> None:
        for name in ("sinks", "recent"):
            _whole(name, getattr(self, name), 0)
        ages = [age for age, _ in self.schemes]
        for age in ages[1:]:
            _whole("an age", age, 1)
        if ages != sorted(set(ages)):
            raise error(f"ages must differ, but are {', '.join(map(str, ages[1:]))}")
        for _, scheme in self.schemes:
            check_scheme(scheme)
        if self.scale_dtype not in (None, torch.float16, torch.bfloat16, torch.float32):
            raise error(f"scale_dtype must be torch.float16, bfloat16 or float32, but is {self.scale_dtype}")

    def formats(self, key_width: int, value_width: int) -> list[Format]:
        """The formats for heads of these widths, the oldest tokens first."""
        found = [
            Format(_of_width(scheme.key, key_width), _of_width(scheme.value, value_width), age)
            for age, scheme in self.schemes
        ]
        return found[::-1]

    def __str__(self) -> str:
        """`kv8, kv4 behind 1024 tokens; 4 sinks and 64 recent tokens as they are`."""
        told = [f"{scheme.name}{f' behind {age} tokens' if age else ''}" for age, scheme in self.schemes]
        exact = f"; {self.sinks} sinks and {self.recent} recent tokens as they are" if self.sinks + self.recent else ""
        return ", ".join(told) + exact


def _of_width(storage: Storage | None, width: int) -> Storage | None:
    return None if storage is None else replace(storage, width=width, channels=min(storage.channels, width))


def check_scheme(scheme: Scheme) -> None:
    """Fail on a scheme that says more than how keys and values are stored, or in a way that nothing can be added to."""
    more = [name for name in ("query", "smooth", "rotate", "key_rank", "value_rank", "channels", "tensors")
            if getattr(scheme, name, None)]  # fmt: skip
    if more:
        raise error(
            f"a cache only stores keys and values in few bits, but scheme '{scheme.name}' has {', '.join(more)}; "
            "expected kv1 to kv8 or kv_fp8"
        )
    if scheme.key is None and scheme.value is None:
        raise error(f"scheme '{scheme.name}' stores neither keys nor values in few bits; expected kv1 to kv8 or kv_fp8")
    for name in ("key", "value"):
        storage: Storage | None = getattr(scheme, name)
        if storage is not None and not storage.tokens:
            raise error(f"tokens cannot be added where all of a {name} share a scale: {storage}; expected groups")
        if storage is not None and not storage.heads:
            raise error(f"each head of a cache must have its own scales, but those of {name} are shared: {storage}")


@dataclass(eq=False)
class Segment:
    """Tokens next to each other that are kept in one format."""

    format: Format
    keys: Numbers
    values: Numbers
    length: int = 0

    @staticmethod
    def like(format_: Format, k: torch.Tensor, v: torch.Tensor) -> Segment:
        return Segment(format_, Numbers(format_.key, k), Numbers(format_.value, v))

    @property
    def exact(self) -> bool:
        return self.format.key is None and self.format.value is None

    def append(self, k: Sequence[torch.Tensor], v: Sequence[torch.Tensor], tokens: int) -> None:
        self.keys.append(k)
        self.values.append(v)
        self.length += tokens

    def keep(self, first: int, last: int) -> None:
        """Drop all tokens but those from `first` up to `last`; only whole groups."""
        for numbers in (self.keys, self.values):
            numbers.keep(first, last)
        self.length = last - first

    def read(self, first: int, last: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of the tokens from `first` up to `last` as numbers; `first` begins a group."""
        return self.keys.read(first, last, dtype), self.values.read(first, last, dtype)


@dataclass(eq=False)
class Store:
    """Keys (B, K, N, D) and values (B, K, N, E) of one layer. Refusals leave it as it was."""

    plan: Plan
    keys_like: torch.Tensor
    values_like: torch.Tensor
    sinks: Segment = field(init=False)
    blocks: list[Segment] = field(init=False)
    tail: Segment = field(init=False)

    def __post_init__(self) -> None:
        k, v = (x[:, :, :0].detach() for x in (self.keys_like, self.values_like))
        self.keys_like, self.values_like = k.new_empty(k.shape), v.new_empty(v.shape)
        self.clear()

    def clear(self) -> None:
        """Forget all tokens."""
        k, v = self.keys_like, self.values_like
        self.sinks, self.tail = Segment.like(Format(), k, v), Segment.like(Format(), k, v)
        self.blocks = [Segment.like(f, k, v) for f in self.plan.formats(k.shape[3], v.shape[3])]
        self._group = math.lcm(*(segment.format.group for segment in self.blocks))
        narrow = k.element_size() <= 2
        self.scale_dtype = self.plan.scale_dtype or (torch.float16 if narrow else torch.float32)

    @property
    def length(self) -> int:
        return sum(segment.length for segment in self.segments)

    @property
    def segments(self) -> list[Segment]:
        """In the order of their tokens; some may be empty."""
        return [self.sinks, *self.blocks, self.tail]

    @property
    def dtype(self) -> torch.dtype:
        return self.keys_like.dtype

    @property
    def bytes(self) -> int:
        """What is kept takes so many bytes: `Storage.bytes` of what is quantised, and the other numbers."""
        batch, heads, _, _ = self.keys_like.shape
        total = 0
        for segment in self.segments:
            for storage, like in ((segment.format.key, self.keys_like), (segment.format.value, self.values_like)):
                if storage is None:
                    total += segment.length * batch * heads * like.shape[3] * like.element_size()
                else:
                    total += storage.bytes(segment.length, batch * heads, self.scale_dtype.itemsize)
        return total

    @property
    def allocated_bytes(self) -> int:
        """What is allocated, with room for tokens to come."""
        return sum(numbers.allocated_bytes for s in self.segments for numbers in (s.keys, s.values))

    def append(self, k: torch.Tensor, v: torch.Tensor) -> None:
        """Add tokens k (B, K, M, D) and v (B, K, M, E) at the end."""
        self.check(k, v)
        k, v = k.detach(), v.detach()
        first = min(k.shape[2], self.plan.sinks - self.sinks.length)
        rest_k, rest_v = k[:, :, first:], v[:, :, first:]
        ends = [*self._ends(), self._behind_sinks + rest_k.shape[2]]
        wanted = self._wanted_ends(ends)
        if wanted != ends[:-1]:
            self._move(ends[:-1], wanted, rest_k, rest_v)
        else:
            self.tail.append([rest_k], [rest_v], rest_k.shape[2])
        self.sinks.append([k[:, :, :first]], [v[:, :, :first]], first)

    @property
    def _behind_sinks(self) -> int:
        return self.length - self.sinks.length

    def _ends(self) -> list[int]:
        """Where each quantised segment ends, counted from the end of the sinks."""
        ends, end = list[int](), 0
        for segment in self.blocks:
            end += segment.length
            ends.append(end)
        return ends

    def _wanted_ends(self, ends: Sequence[int]) -> list[int]:
        """Where quantised segments shall end, whose ends are given before the number of all tokens.

        Whole groups leave a segment when all of their tokens are too old for it, and none comes back.
        """
        *ends, tokens = ends
        wanted, most = list[int](), tokens
        ages = [max(segment.format.age, self.plan.recent) for segment in self.blocks]
        for end, age in zip(ends, ages, strict=True):
            most = max(0, tokens - age) // self._group * self._group
            wanted.append(max(end, most))
        return wanted

    def _move(self, ends: Sequence[int], wanted: Sequence[int], k: torch.Tensor, v: torch.Tensor) -> None:
        """Let quantised segments end where `wanted`, and new tokens behind the sinks follow; all or nothing."""
        pending = [torch.cat([own, new], 2) for own, new in zip(self._tail_tensors(), (k, v), strict=True)]
        pieces: list[tuple[Sequence[torch.Tensor], Sequence[torch.Tensor], int]] = []
        before = [0, *wanted]
        for segment, end, start, stop in zip(self.blocks, ends, before, wanted, strict=False):
            first = max(end, start)
            if stop <= first:
                pieces.append(((), (), 0))
                continue
            moved_k, moved_v = self._read(first, stop, ends, pending)
            stored_k = segment.keys.quantized(moved_k, self.scale_dtype)
            pieces.append((stored_k, segment.values.quantized(moved_v, self.scale_dtype), stop - first))
        for segment, piece, end, start, stop in zip(self.blocks, pieces, ends, [0, *ends], before, strict=False):
            segment.keep(min(stop, end) - start, end - start)
            if piece[2]:
                segment.append(*piece)
        rest = [x[:, :, wanted[-1] - ends[-1] :] for x in pending]
        self.tail.keep(0, 0)
        self.tail.append([rest[0]], [rest[1]], rest[0].shape[2])

    def _tail_tensors(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.tail.keys.tensors[0], self.tail.values.tensors[0]

    def _read(
        self, first: int, last: int, ends: Sequence[int], pending: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens from `first` up to `last` behind the sinks, where `pending` follow what is quantised."""
        wide = torch.promote_types(self.dtype, torch.float32)
        parts: list[Sequence[torch.Tensor]] = []
        for segment, start, end in zip(self.blocks, [0, *ends], ends, strict=False):
            if max(first, start) < min(last, end):
                parts.append(segment.read(max(first, start) - start, min(last, end) - start, wide))
        if last > ends[-1]:
            parts.append([x[:, :, max(0, first - ends[-1]) : last - ends[-1]] for x in pending])
        k, v = (torch.cat([part[i] for part in parts], 2) for i in (0, 1))
        return k, v

    def check(self, k: torch.Tensor, v: torch.Tensor) -> None:
        """Fail, before anything has changed, on what cannot be added."""
        for name, x, like in (("k", k, self.keys_like), ("v", v, self.values_like)):
            batch, heads, _, width = like.shape
            if x.dim() != 4 or (x.shape[0], x.shape[1], x.shape[3]) != (batch, heads, width):
                raise error(
                    f"{name} must be ({batch}, {heads}, tokens, {width}) as the cache is, but is {tuple(x.shape)}"
                )
            if (x.dtype, x.device) != (like.dtype, like.device):
                wanted = f"{like.dtype} on {like.device} as the cache is"
                raise error(f"{name} must be {wanted}, but is {x.dtype} on {x.device}")
        if k.shape[2] != v.shape[2]:
            raise error(f"k and v must have as many tokens, but have {k.shape[2]} and {v.shape[2]}")
        if self.plan.check:
            # Half of the largest scale: a group's range is up to twice its largest number.
            most = torch.finfo(self.scale_dtype).max / 2
            for name, x in (("k", k), ("v", v)):
                largest = float(x.detach().abs().amax()) if x.numel() else 0.0
                if not largest <= most:
                    raise error(
                        f"numbers of {name} must be finite and at most {most:g}, for scales in {self.scale_dtype}, "
                        f"but the largest is {largest:g}"
                    )

    def update(self, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Add tokens, and all keys and values then as numbers; those that an empty cache gets as they were given."""
        if not self.length:
            self.append(k, v)
            # As in memory as later results are: graphs reckon with one layout.
            return k.clone(memory_format=torch.contiguous_format), v.clone(memory_format=torch.contiguous_format)
        self.append(k, v)
        return self.numbers()

    def numbers(self) -> tuple[torch.Tensor, torch.Tensor]:
        """All keys and values as numbers of the dtype that was given."""
        parts = [segment.read(0, segment.length, self.dtype) for segment in self.segments]
        return torch.cat([k for k, _ in parts], 2), torch.cat([v for _, v in parts], 2)

    def crop(self, tokens: int) -> None:
        """Keep the first `tokens`. Of a group that this cuts the numbers stay as they are and go back to the tail."""
        if tokens >= self.length:
            return
        behind = max(0, tokens - self.sinks.length)
        ends = self._ends()
        if behind >= ends[-1]:
            self.tail.keep(0, behind - ends[-1])
        else:
            whole = behind // self._group * self._group
            left = [x.to(self.dtype) for x in self._read(whole, behind, ends, ())] if behind > whole else []
            for segment, start in zip(self.blocks, [0, *ends], strict=False):
                segment.keep(0, min(segment.length, max(0, whole - start)))
            self.tail.keep(0, 0)
            if left:
                self.tail.append([left[0]], [left[1]], behind - whole)
        self.sinks.keep(0, min(self.sinks.length, tokens))

    def select(self, indices: torch.Tensor) -> None:
        """Batches in another order, some of them several times or not at all."""
        for segment in self.segments:
            segment.keys.select(indices)
            segment.values.select(indices)
        self.keys_like, self.values_like = (x.index_select(0, indices) for x in (self.keys_like, self.values_like))


def _whole(name: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise error(f"{name} must be a whole number of at least {least}, but is {value!r}")
