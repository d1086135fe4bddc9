"""Whether a kernel would spill registers in a loop: a small learned judge, where one formula is not right often enough.

Trees of questions about what a thread holds, whose answers are added up. They were learned from kernels compiled
offline (`training/feasibility.py`), and need nothing but their numbers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from math import log
from pathlib import Path
from typing import Any

from .devices import Device
from .resources import (
    AttentionShape,
    TileConfig,
    fma_per_thread,
    register_demand,
    register_share,
    shared_memory,
    wide_products,
)
from .thread_layouts import HELD, held_by_threads

WEIGHTS = Path(__file__).parent / "weights" / "feasibility.json"

FEATURES = (
    "registers in operands", "element bytes", "bulk", "wide products", "warps", "stages", "block_m", "block_n",
    "key width", "value width", "value piece", "unaligned", "score bytes", "column bytes", "score work", "windowed",
    "skips", "few rows", "demand", "result a thread", "scores a thread", "queries a thread", "keys a thread",
    "values a thread", "result and scores a thread", "multiply-adds a thread", "shared part", "rows a warp",
    "loaded a thread", "addresses a thread", "on the way and at work", *HELD, "share",
)  # fmt: skip
"""What is known of a kernel before it is compiled; numbers of elements and of registers are for each thread.

"loaded" are registers through which tiles pass where nothing copies them in the background, "addresses" the copies of
16 bytes that each have an address; "share" is the part of the registers that the formula allows, as a logarithm.
"""

COPY_BYTES, REGISTER_BYTES, LEAST_SHARE = 16, 4, 1e-3

Tree = tuple[tuple[int, float, int, int, float], ...]
"""Nodes: the feature asked for, its limit, the nodes for what is at most that and for more, what a leaf adds."""

LEAF = -1

NARROWEST = 32
"""Head dimensions that were compiled; of lesser ones trees would only guess."""


@dataclass(frozen=True)
class Judge:
    """The formula's word as `base` and `slope`, and what trees add: the logarithm of the odds that a kernel spills.

    Of other devices than `targets` it knows less than the formula.
    """

    targets: tuple[str, ...]
    base: float
    slope: float
    trees: tuple[Tree, ...]

    def log_odds(self, features: tuple[float, ...]) -> float:
        """Above 0 where the kernel is more likely to spill than not."""
        total = self.base + self.slope * features[-1]
        for tree in self.trees:
            feature, limit, low, high, value = tree[0]
            while feature != LEAF:
                feature, limit, low, high, value = tree[low if features[feature] <= limit else high]
            total += value
        return total

    def to_value(self) -> dict[str, Any]:
        return {
            "features": FEATURES,
            "targets": self.targets,
            "base": self.base,
            "slope": self.slope,
            "trees": self.trees,
        }


def features_of(config: TileConfig, shape: AttentionShape, device: Device) -> tuple[float, ...]:
    """The numbers called `FEATURES`."""
    threads = config.warps * device.warp_size
    result = config.block_m * shape.value_width / threads
    scores = config.block_m * config.block_n / threads
    wide = wide_products(config, shape, device)
    widths = shape.key_width, shape.value_width
    alone = not shape.bulk and config.stages == 1
    loaded = config.block_n * max(widths) * shape.element_bytes / REGISTER_BYTES / threads if alone else 0.0
    addresses = 0.0 if shape.bulk else config.block_n * sum(widths) * shape.element_bytes / COPY_BYTES / threads
    return (
        device.operands_in_registers, shape.element_bytes, shape.bulk, wide, config.warps, config.stages,
        config.block_m, config.block_n, shape.key_width, shape.value_width, shape.value_piece, shape.unaligned,
        shape.score_bytes, shape.column_bytes, shape.score_work, shape.windowed, shape.skips, shape.few_rows,
        register_demand(config, shape, device), result, scores, config.block_m * shape.key_width / threads,
        config.block_n * shape.key_width / threads, config.block_n * shape.value_width / threads, result + scores,
        0 if shape.tensor_cores else fma_per_thread(config, shape, device),
        shared_memory(config, shape, device) / device.shared_memory, config.block_m / config.warps,
        loaded, addresses, result + 1.5 * scores + loaded + 2 * addresses,
        *held_by_threads(config, shape, device).numbers,
        log(max(register_share(config, shape, device)[0], LEAST_SHARE)),
    )  # fmt: skip


@cache
def judge() -> Judge:
    """The one that comes with attir; where it was learned for other features, one that knows of no device."""
    value: dict[str, Any] = json.loads(WEIGHTS.read_text())
    if tuple(value["features"]) != FEATURES:
        return Judge((), 0.0, 0.0, ())
    trees = tuple(tuple((n[0], n[1], n[2], n[3], n[4]) for n in tree) for tree in value["trees"])
    return Judge(tuple(value["targets"]), value["base"], value["slope"], trees)


def log_odds_of_spills(config: TileConfig, shape: AttentionShape, device: Device) -> float | None:
    """The logarithm of the odds that a kernel spills in a loop; None where nothing was learned of such kernels."""
    unlike = shape.tiles_of_codes or shape.swapped or shape.specialised or shape.branches or shape.unaligned
    narrow = min(shape.key_width, shape.value_width) < NARROWEST
    if unlike or narrow or device.name not in judge().targets:
        return None
    return judge().log_odds(features_of(config, shape, device))
