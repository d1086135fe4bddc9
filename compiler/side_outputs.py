"""Statistics of one attention on tensors: each the log-sum-exp of an attention derived from it, run by its backend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from ..ir.core import Operation
from ..ir.diagnostics import error
from ..ir.dialects.attn import AttentionOp
from ..ir.dialects.func import FuncOp
from ..passes.manager import PassContext
from ..passes.side_outputs import COLUMN, ENTROPY, LARGEST, LSE, SideOutput
from .custom_op import Runner
from .kernels import compile_site
from .options import Options

AT_ONCE = 1 << 22
"""Numbers of rows by blocks of keys that are held at a time: bounds the memory, never the result."""

SMALL = 1e-30
"""An entropy below is that of a row with one key, of which `SideOutput` keeps the logarithm finite."""


@dataclass(frozen=True)
class Statistics:
    """What an attention's weights p[b,h,m,n] = exp(s[b,h,m,n] - lse[b,h,m]) say of keys, rows and blocks; all f32.

    Of the last `rows` queries, all by default. Weights are those before dropout or anything else that changes
    them after the softmax. A row that keeps no key counts for nothing, and a sink takes its part of a row's weight.

    `lse` (B, H, rows). `column_mass` (B, K, N): Σ p over the rows and the query heads of each key head.
    `column_square` (B, K, N): Σ p². `entropy` (B, H, rows): -Σ p log p, natural logarithm. `block_max`
    (B, H, ceil(rows / block_m), ceil(N / block_n)): the largest p of each block, 0 where none is kept; or the
    largest score, then -inf. `group` query heads share a key head.
    """

    lse: torch.Tensor
    group: int
    column_mass: torch.Tensor | None = None
    column_square: torch.Tensor | None = None
    entropy: torch.Tensor | None = None
    block_max: torch.Tensor | None = None

    @property
    def rows(self) -> int:
        """How many queries were looked at."""
        return self.lse.shape[2]

    @property
    def column_mean(self) -> torch.Tensor:
        """The mean weight of each key over rows and query heads, (B, K, N)."""
        return self._asked("column_mass") / max(1, self.rows * self.group)

    @property
    def column_variance(self) -> torch.Tensor:
        """The variance of each key's weights over rows and query heads, (B, K, N)."""
        squares = self._asked("column_square") / max(1, self.rows * self.group)
        return (squares - self.column_mean.square()).clamp_min(0.0)

    def _asked(self, name: str) -> torch.Tensor:
        found: torch.Tensor | None = getattr(self, name)
        if found is None:
            raise error(f"these statistics hold no {name}; ask for it where they are made")
        return found


@dataclass(frozen=True)
class Wanted:
    """Which statistics to compute: of the `last` rows (None: of all), in blocks of (rows, keys) where asked for.

    With `block_scores` the largest scores, not weights, of the blocks.
    """

    column_mass: bool = True
    column_square: bool = False
    entropy: bool = False
    block_max: tuple[int, int] | None = None
    block_scores: bool = False
    last: int | None = None

    def __post_init__(self) -> None:
        if self.last is not None and (not _whole(self.last) or self.last < 1):
            raise error(f"last must be a positive number of queries, but is {self.last!r}")
        if self.block_max is not None and not (
            isinstance(self.block_max, tuple)  # pyright: ignore[reportUnnecessaryIsInstance]
            and len(self.block_max) == 2
            and all(_whole(size) and size > 0 for size in self.block_max)
        ):
            raise error(f"block_max must be two positive sizes, of rows and of keys, but is {self.block_max!r}")
        if self.block_scores and self.block_max is None:
            raise error("block_scores says what is the largest of blocks, but block_max gives no sizes of them")


def _whole(x: object) -> bool:
    return isinstance(x, int) and not isinstance(x, bool)


@dataclass(eq=False)
class SideOutputs:
    """The statistics of one outlined attention (see `sites.outline`), whose kernels are made as they are asked for."""

    module: Operation
    backend: str
    _runners: dict[SideOutput, Runner] = field(default_factory=dict[SideOutput, Runner])

    def __post_init__(self) -> None:
        function = next(FuncOp(op) for op in self.module.walk() if FuncOp.match(op))
        others = [op.name for op in function.body.block.ops[:-1] if AttentionOp.match(op) is None]
        if others:
            raise error(f"statistics are of an attention alone, but this one is computed with {', '.join(others)}")

    @property
    def group(self) -> int:
        """How many query heads share a key head."""
        return next(AttentionOp(op) for op in self.module.walk() if AttentionOp.match(op)).group.value

    def __call__(
        self, q: torch.Tensor, k: torch.Tensor, captures: Sequence[torch.Tensor], wanted: Wanted
    ) -> Statistics:
        """Of q (B, H, M, D), k (B, K, N, D) and what the attention captures; memory grows with M and N, not M N."""
        call = _Call(self, q, k, captures, wanted)
        lse = call.lse()
        # exp(s - inf) is 0, whatever the scores of a row that keeps no key.
        safe = lse.masked_fill(lse == -torch.inf, torch.inf)
        return Statistics(
            lse,
            self.group,
            call.column(safe, 1) if wanted.column_mass or wanted.column_square else None,
            call.column(safe, 2) if wanted.column_square else None,
            call.entropy(safe) if wanted.entropy else None,
            None if wanted.block_max is None else call.block_max(safe, *wanted.block_max),
        )

    def run(
        self, wanted: SideOutput, tensors: Sequence[torch.Tensor], captures: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """The log-sum-exp of the attention for one side output, on queries and keys."""
        if wanted not in self._runners:
            module = self.module.clone()
            wanted.run(module, PassContext())
            self._runners[wanted] = compile_site(module, Options(backend=self.backend)).runner
        queries, keys = tensors
        return self._runners[wanted](queries, keys, keys[..., :0], captures, True)[1]


@dataclass(frozen=True)
class _Call:
    """One computation of statistics."""

    outputs: SideOutputs
    q: torch.Tensor
    k: torch.Tensor
    captures: Sequence[torch.Tensor]
    wanted: Wanted

    @property
    def first(self) -> int:
        """The first row that is looked at."""
        length = self.q.shape[2]
        return 0 if self.wanted.last is None else max(0, length - self.wanted.last)

    @property
    def queries(self) -> torch.Tensor:
        return self.q[:, :, self.first :]

    def lse(self) -> torch.Tensor:
        return self._run(SideOutput(LSE, part=self.first > 0), self.queries, self.k, self._place(m=self.first))

    def entropy(self, lse: torch.Tensor) -> torch.Tensor:
        wanted = SideOutput(ENTROPY, part=self.first > 0)
        found = self._run(wanted, self.queries, self.k, self._place(m=self.first), lse).exp()
        return found.masked_fill(found < SMALL, 0.0)

    def column(self, lse: torch.Tensor, power: int) -> torch.Tensor:
        """Σ p^power over rows and the heads of a group: one head of each group at a time."""
        group, wanted = self.outputs.group, SideOutput(COLUMN, power=power, part=self.first > 0)
        total = self.k.new_zeros(self.k.shape[:3], dtype=torch.float32)
        for h in range(group):
            rows, place = self.queries[:, h::group], self._place(h=h, m=self.first)
            total += self._run(wanted, self.k, rows, place, lse[:, h::group]).exp()
        return total

    def block_max(self, lse: torch.Tensor, block_m: int, block_n: int) -> torch.Tensor:
        """The largest weight or score of each block; so many rows at a time that little memory is needed."""
        batch, heads, rows, _ = self.queries.shape
        row_blocks, key_blocks = -(-rows // block_m), -(-self.k.shape[2] // block_n)
        found = lse.new_full((batch, heads, row_blocks, key_blocks), -torch.inf)
        if found.numel() == 0:
            return found
        at_once = block_m * max(1, AT_ONCE // max(1, heads * key_blocks * block_m))
        for b in range(batch):
            for start in range(0, rows, at_once):
                part = self._largest(lse, b, slice(start, start + at_once), block_n)
                padded = torch.nn.functional.pad(part, (0, -part.shape[2] % block_m), value=-torch.inf)
                blocks = padded.reshape(*padded.shape[:2], -1, block_m).amax(3)
                first = start // block_m
                found[b, :, first : first + blocks.shape[2]] = blocks.permute(1, 2, 0)
        return found if self.wanted.block_scores else found.exp()

    def _largest(self, lse: torch.Tensor, b: int, rows: slice, block: int) -> torch.Tensor:
        """The largest of each row in each block of keys, (blocks, H, rows): blocks are batches of keys."""
        keys, length = self.k[b], self.k.shape[2]
        whole = length // block
        wanted = SideOutput(LARGEST, block=block, weights=not self.wanted.block_scores)
        found: list[torch.Tensor] = []
        for first, count, size in ((0, whole, block), (whole, int(length % block > 0), length % block)):
            if not count:
                continue
            part = keys[:, first * block : first * block + count * size]
            part = part.reshape(keys.shape[0], count, size, keys.shape[2]).transpose(0, 1)
            q = self.queries[b : b + 1, :, rows]
            place = self._place(b=b, m=self.first + rows.start, n=first)
            row_lse = [] if self.wanted.block_scores else [lse[b : b + 1, :, rows].expand(count, -1, -1)]
            found.append(self._run(wanted, q.expand(count, -1, -1, -1), part, place, *row_lse))
        return torch.cat(found)

    def _run(self, wanted: SideOutput, q: torch.Tensor, k: torch.Tensor, *more: torch.Tensor) -> torch.Tensor:
        return self.outputs.run(wanted, (q, k), [*self.captures, *more])

    def _place(self, b: int = 0, h: int = 0, m: int = 0, n: int = 0) -> torch.Tensor:
        """Which part of the attention the tensors of a run are, see `SideOutput`."""
        return torch.tensor([b, h, m, n], device=self.q.device)
