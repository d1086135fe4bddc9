"""Queries and keys with the structure that attention of long texts has, and how much weight a choice of blocks keeps.

Synthetic and seeded; nothing is taken from a model. Keys lie near a subspace of less than half of the channels, as
has been observed of models (Loki, arXiv 2406.02542), in a random basis, but for a few outlier channels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch

from attir.compiler.block_scores import split_axis

SCORES_AT_ONCE = 1 << 24
SINKS = 4
NOISE = 0.5
"""The standard deviation of the logits that have no structure."""


@dataclass(frozen=True)
class Needle:
    """Key `key` is what the queries from `start` to `stop` look for."""

    key: int
    start: int
    stop: int


@dataclass(frozen=True)
class Recipe:
    """Sizes and structure. A strength says by how much e to its power outweighs all keys without structure together.

    Every query sees the first keys (`sink`), those around its own position (`band`, about `width` keys) and some
    heavy columns (`column`); `needles` keys at random places are looked for by a run of queries behind them.
    """

    length: int = 4096
    width: int = 64
    heads: int = 2
    key_heads: int = 1
    needles: int = 16
    columns: int = 8
    outliers: int = 2
    needle: float = 7.0
    sink: float = 2.0
    band: float = 1.0
    column: float = -1.0
    reach: int = 48
    shortest: int = 32
    longest: int = 192
    seed: int = 0


@dataclass(frozen=True)
class Structured:
    """q (1, H, N, D), k and v (1, K, N, D) in float32, and the needles of each key head."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    needles: tuple[tuple[Needle, ...], ...]

    @property
    def scale(self) -> float:
        return self.q.shape[-1] ** -0.5

    @property
    def group(self) -> int:
        return self.q.shape[1] // self.k.shape[1]

    def needle_rows(self) -> torch.Tensor:
        """(H, N): which queries of which head look for a needle."""
        rows = torch.zeros(self.q.shape[1:3], dtype=torch.bool)
        for head, needles in enumerate(self.needles):
            for needle in needles:
                rows[head * self.group : (head + 1) * self.group, needle.start : needle.stop] = True
        return rows


def structured(recipe: Recipe) -> Structured:
    """Inputs after a recipe; equal recipes give equal inputs."""
    generator = torch.Generator().manual_seed(recipe.seed)
    made = [_key_head(recipe, generator) for _ in range(recipe.key_heads)]
    q = torch.cat([queries for queries, _, _ in made])[None]
    k = torch.stack([keys for _, keys, _ in made])[None]
    v = torch.randn(k.shape, generator=generator)
    return Structured(q, k, v, tuple(needles for _, _, needles in made))


def outlier_channels(
    length: int = 1024, width: int = 64, heads: int = 2, key_heads: int = 0, channels: int = 3, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q (1, H, N, D), k and v (1, K, N, D) of which every key is large in the same channels, up to 4.

    So are the keys of models: outliers are far from zero in every token and vary little (KIVI, arXiv 2402.02750;
    SageAttention, arXiv 2410.02367). Without `key_heads` there are as many as query heads.
    """
    recipe = Recipe(length, width, heads, key_heads or heads, needles=2, outliers=channels, longest=64, seed=seed)
    made = structured(recipe)
    return made.q, made.k, made.v


def _key_head(recipe: Recipe, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, tuple[Needle, ...]]:
    """Queries (G, N, D), keys (N, D) and needles of one key head and its group."""
    length, width, group = recipe.length, recipe.width, recipe.heads // recipe.key_heads
    content, places = width // 8, width // 4

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    q, k = 0.1 * noise(group, length, width), 0.1 * noise(length, width)
    spread = math.sqrt(NOISE * math.sqrt(width / content))
    k[:, :content] += spread * noise(length, content)
    q[..., :content] += spread * noise(group, length, content)
    near = slice(content, content + places)
    at = _positions(length, places, recipe.reach, generator)
    peak = math.log(length / recipe.reach) + 1 + recipe.band
    together = math.log(length) + NOISE**2 / 2 + peak**2 / (2 * places)
    strength = math.sqrt(width) * peak / (places / 2)
    k[:, near], q[..., near] = k[:, near] + math.sqrt(strength) * at, q[..., near] + math.sqrt(strength) * at
    common = content + places
    _aim(q, k, slice(0, SINKS), _axis(width, common), together + recipe.sink - math.log(SINKS))
    for _ in range(recipe.columns):
        key = _draw(generator, SINKS, length)
        _aim(q, k, slice(key, key + 1), _axis(width, common), together + recipe.column, of_queries=False)
    needles = tuple(_needle(recipe, generator) for _ in range(recipe.needles))
    for needle in needles:
        direction = torch.nn.functional.pad(torch.nn.functional.normalize(noise(content), dim=0), (0, width - content))
        key = slice(needle.key, needle.key + 1)
        _aim(q[:, needle.start : needle.stop], k, key, direction, together + recipe.needle)
    basis = cast("torch.Tensor", torch.linalg.qr(noise(width, width))[0])  # pyright: ignore[reportUnknownMemberType]
    q, k = q @ basis, k @ basis
    for channel in range(recipe.outliers):
        k[:, channel * (width // 4)] += 8.0 + 0.3 * noise(length)
    return q, k, needles


def _positions(length: int, places: int, reach: int, generator: torch.Generator) -> torch.Tensor:
    """(N, places): features whose products fall off with the distance of two positions."""
    speeds = torch.randn(places // 2, generator=generator) / reach
    angles = torch.arange(length)[:, None] * speeds
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def _axis(width: int, number: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(number), width).float()


def _aim(
    q: torch.Tensor, k: torch.Tensor, keys: slice, direction: torch.Tensor, logit: float, of_queries: bool = True
) -> None:
    """Add a direction to keys and queries, so that their products grow by `logit`."""
    strength = math.sqrt(math.sqrt(k.shape[1]) * logit)
    if of_queries:
        q += strength * direction
    k[keys] += strength * direction


def _needle(recipe: Recipe, generator: torch.Generator) -> Needle:
    """A run of queries in the later part, and a key in front of it."""
    count = _draw(generator, recipe.shortest, recipe.longest + 1)
    start = _draw(generator, recipe.length // 4, recipe.length - count)
    return Needle(_draw(generator, SINKS, max(SINKS + 1, start - recipe.longest)), start, start + count)


def _draw(generator: torch.Generator, low: int, high: int) -> int:
    return int(torch.randint(low, high, (), generator=generator))


def recalls(
    inputs: Structured, tables: Mapping[str, torch.Tensor], rows: int, block: int
) -> Mapping[str, Mapping[str, float]]:
    """For each table of blocks (1, K, MB, NB): the mean share of causal attention's weight that lies in its blocks.

    Over all queries, over those that look for a needle ("needles"), and over the others.
    """
    heads, length = inputs.q.shape[1:3]
    kept = {name: torch.empty(heads, length, dtype=torch.float64) for name in tables}
    step = max(rows, SCORES_AT_ONCE // length // rows * rows)
    for h in range(heads):
        for start in range(0, length, step):
            stop = min(start + step, length)
            weights = _weights(inputs, h, start, stop)
            of_blocks = split_axis(torch.nn.functional.pad(weights, (0, -stop % block)), 1, (-1, block)).sum(dim=2)
            row_blocks = torch.arange(start, stop) // rows
            for name, table in tables.items():
                chosen = table[0, h // inputs.group, row_blocks, : of_blocks.shape[1]]
                kept[name][h, start:stop] = (of_blocks * chosen).sum(dim=1).double()
    needles = inputs.needle_rows()
    return {
        name: {"all": _mean(x), "needles": _mean(x[needles]), "others": _mean(x[~needles])} for name, x in kept.items()
    }


def _mean(x: torch.Tensor) -> float:
    return float(x.mean()) if x.numel() else math.nan


def _weights(inputs: Structured, head: int, start: int, stop: int) -> torch.Tensor:
    """The weights of the queries from start to stop over the keys in front of stop."""
    q, k = inputs.q[0, head, start:stop], inputs.k[0, head // inputs.group, :stop]
    later = torch.arange(stop) > torch.arange(start, stop)[:, None]
    return ((q @ k.T) * inputs.scale).masked_fill_(later, -torch.inf).softmax(dim=1)
