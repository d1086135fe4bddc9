"""Learns which kernels spill from those that were compiled: boosted trees over a few numbers; the same every time.

python -m attir.cost_model.training.feasibility
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..dataset import DATA, CompileRecord, read_compiles
from ..devices import DEVICES
from ..families import held_out
from ..feasibility import LEAF, WEIGHTS, Judge, Tree, features_of
from ..resources import AttentionShape, TileConfig

Array = np.ndarray[Any, np.dtype[Any]]

TARGETS = ("sm_80", "sm_90")
TREES, DEPTH, RATE = 60, 3, 0.15
STEPS = 30
"""Newton's, for the formula's word."""

FOLDS = 5
FEWEST, RIDGE = 3.0, 1.0
"""Kernels on each side of a question, and what is added to the curvature, so that few kernels do not say too much."""

DIGITS = 4


@dataclass(frozen=True)
class Sample:
    """Features of kernels, a row each, and whether each spilled in a loop."""

    features: Array
    spilled: Array


def config_of(record: CompileRecord) -> TileConfig:
    planned = record.schedule
    return TileConfig(planned.block_m, planned.block_n, planned.num_warps, planned.num_stages)


def row_of(record: CompileRecord) -> tuple[float, ...]:
    """The features of a record."""
    return features_of(config_of(record), AttentionShape(**record.shape), DEVICES[record.target])


def sample_of(records: Sequence[CompileRecord]) -> Sample:
    return Sample(np.array([row_of(r) for r in records], float), np.array([r.loop_spills > 0 for r in records], float))


def learn(sample: Sample, targets: tuple[str, ...] = TARGETS) -> Judge:
    """Trees one after the other, each for what the former ones leave, by second-order steps of the logistic loss."""
    base, slope = _formula(sample)
    odds, trees = base + slope * sample.features[:, -1], list[Tree]()
    for _ in range(TREES):
        chance = 1 / (1 + np.exp(-odds))
        nodes: list[tuple[int, float, int, int, float]] = []
        _grow(nodes, sample.features, sample.spilled - chance, chance * (1 - chance), odds, np.arange(len(odds)), DEPTH)
        trees.append(tuple(nodes))
    return Judge(targets, base, slope, tuple(trees))


def _formula(sample: Sample) -> tuple[float, float]:
    """How far the formula alone can be trusted: intercept and slope of the log-odds over its share."""
    columns = np.stack([np.ones(len(sample.spilled)), sample.features[:, -1]], 1)
    weights = np.zeros(2)
    for _ in range(STEPS):
        chance = 1 / (1 + np.exp(-columns @ weights))
        slope = columns.T @ (sample.spilled - chance) - RIDGE * weights
        curve = (columns * (chance * (1 - chance))[:, None]).T @ columns + RIDGE * np.eye(2)
        weights = weights + np.linalg.solve(curve, slope)
    return round(float(weights[0]), DIGITS), round(float(weights[1]), DIGITS)


def _grow(
    nodes: list[tuple[int, float, int, int, float]],
    features: Array, slope: Array, curve: Array, odds: Array, rows: Array, depth: int,
) -> int:  # fmt: skip
    """Append the node of some rows and all below it; moves `odds` at leaves. Returns its number."""
    number = len(nodes)
    nodes.append((LEAF, 0.0, 0, 0, 0.0))
    found = _question(features[rows], slope[rows], curve[rows]) if depth else None
    if found is None:
        value = round(float(RATE * slope[rows].sum() / (curve[rows].sum() + RIDGE)), DIGITS)
        odds[rows] += value
        nodes[number] = (LEAF, 0.0, 0, 0, value)
        return number
    feature, limit = found
    low = features[rows, feature] <= limit
    first = _grow(nodes, features, slope, curve, odds, rows[low], depth - 1)
    second = _grow(nodes, features, slope, curve, odds, rows[~low], depth - 1)
    nodes[number] = (feature, limit, first, second, 0.0)
    return number


def _question(features: Array, slope: Array, curve: Array) -> tuple[int, float] | None:
    """The feature and the limit that part these rows best; None where none does."""
    best, found = 1e-9, None
    count, total, bend = len(slope), slope.sum(), curve.sum()
    whole = total**2 / (bend + RIDGE)
    for feature in range(features.shape[1]):
        order = np.argsort(features[:, feature], kind="stable")
        values = features[order, feature]
        left, weight = np.cumsum(slope[order])[:-1], np.cumsum(curve[order])[:-1]
        gain = left**2 / (weight + RIDGE) + (total - left) ** 2 / (bend - weight + RIDGE) - whole
        sides = np.arange(1, count)
        gain[(values[1:] <= values[:-1]) | (sides < FEWEST) | (count - sides < FEWEST)] = -1
        if len(gain) and gain.max() > best:
            at = int(gain.argmax())
            best, found = float(gain[at]), (feature, round(float(values[at] + values[at + 1]) / 2, DIGITS))
    return found


def compiled(paths: Sequence[Any] = ()) -> list[CompileRecord]:
    """The kernels of the committed data, or of files, of which the compiler made something."""
    found = paths or [DATA / f"compiles.{target}.jsonl.gz" for target in TARGETS]
    return [record for record in read_compiles(*found) if record.shared]


def trusted(records: Sequence[CompileRecord]) -> tuple[str, ...]:
    """The targets of which the judge knows at least as much as the formula, by families it has not seen."""
    sample = sample_of(records)
    folds = np.array([hashlib.sha256(record.family.encode()).digest()[1] % FOLDS for record in records])
    right: dict[tuple[str, str], int] = dict.fromkeys(((t, who) for t in TARGETS for who in ("judge", "formula")), 0)
    for fold in range(FOLDS):
        inside = folds != fold
        found = learn(Sample(sample.features[inside], sample.spilled[inside]))
        for at in (int(place) for place in np.flatnonzero(~inside)):
            row, spilled, target = tuple(sample.features[at]), bool(sample.spilled[at] > 0), records[at].target
            right[target, "judge"] += (found.log_odds(row) > 0) == spilled
            right[target, "formula"] += (row[-1] > 0) == spilled
    return tuple(target for target in TARGETS if right[target, "judge"] >= right[target, "formula"])


def main(out: Path = WEIGHTS) -> int:
    """Train from the committed data, write to `out`, and say from how many kernels."""
    records = compiled()
    known = [record for record in records if not held_out(record.family)]
    found = learn(sample_of(known), trusted(known))
    out.write_text(json.dumps(found.to_value(), separators=(",", ":")) + "\n")
    print(f"spills: learned from {len(known)} kernels, {len(records) - len(known)} held out, for {found.targets}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
