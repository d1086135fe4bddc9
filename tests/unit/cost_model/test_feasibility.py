"""What fits a GPU is known before anything is compiled: formulas and the learned judge against what compilers made."""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from itertools import islice
from pathlib import Path

import pytest

from attir.compiler.collect_compiles import compiled_apart
from attir.compiler.compile_sample import configurations
from attir.cost_model import feasibility
from attir.cost_model.dataset import DATA, CompileRecord, read_compiles, read_sections
from attir.cost_model.devices import DEVICES
from attir.cost_model.families import held_out
from attir.cost_model.feasibility import FEATURES, LEAF, Judge, features_of, judge, log_odds_of_spills
from attir.cost_model.resources import AttentionShape, TileConfig, refusal, shared_memory
from attir.cost_model.training.feasibility import TARGETS, compiled, config_of, learn, sample_of, trusted

LEAST_KERNELS = 1500
LEAST_RIGHT = {"sm_80": 0.91, "sm_90": 0.93}
"""Of held-out kernels, drawn around the limits of their devices, where it is hardest to tell."""

CLOSE = 1024
"""Bytes of shared memory that a prediction may be above what was given."""


@cache
def records() -> tuple[CompileRecord, ...]:
    return tuple(compiled())


def said_of(record: CompileRecord) -> str:
    """What the planner thinks of a kernel: "fits", "shared memory" or "spills"."""
    reason = refusal(config_of(record), AttentionShape(**record.shape), DEVICES[record.target])
    return "fits" if reason is None else "shared memory" if "shared memory" in reason else "spills"


def found_in(record: CompileRecord) -> str:
    too_much = record.shared > DEVICES[record.target].shared_memory
    return "shared memory" if too_much else "spills" if record.loop_spills else "fits"


@pytest.mark.parametrize("target", TARGETS)
def test_the_data_say_where_they_are_from(target: str) -> None:
    sections = read_sections(DATA / f"compiles.{target}.jsonl.gz")
    for section in sections:
        assert section.header.versions["triton"] and section.header.date
        assert f"--target {target}" in section.header.command
    found = read_compiles(DATA / f"compiles.{target}.jsonl.gz")
    assert all(record.target == target for record in found)
    names = [(r.family, r.rows, r.schedule) for r in found]
    assert len(set(names)) == len(names)


def test_there_are_enough_kernels_of_all_kinds() -> None:
    assert len(records()) >= LEAST_KERNELS
    found = Counter(found_in(record) for record in records())
    assert min(found[kind] for kind in ("fits", "shared memory", "spills")) >= len(records()) // 25


def test_shared_memory_is_never_more_than_predicted() -> None:
    near = 0
    for record in records():
        predicted = shared_memory(config_of(record), AttentionShape(**record.shape), DEVICES[record.target])
        assert record.shared <= predicted, record
        near += predicted - record.shared <= CLOSE
    assert near >= 0.98 * len(records())


@pytest.mark.parametrize("target", TARGETS)
def test_held_out_kernels_that_fail_are_known_before_they_are_compiled(target: str) -> None:
    """Families that the judge has never seen, of the head dimensions that models have."""
    unseen = [r for r in records() if r.target == target and held_out(r.family) and 64 <= r.case.width <= 256]
    pairs = Counter((said_of(record), found_in(record)) for record in unseen)
    assert pairs["fits", "shared memory"] == pairs["spills", "shared memory"] == 0
    right = sum(count for (said, found), count in pairs.items() if (said == "fits") == (found == "fits"))
    assert right >= LEAST_RIGHT[target] * len(unseen), pairs


@pytest.mark.slow
def test_learning_is_deterministic_and_gives_what_is_committed() -> None:
    known = [record for record in compiled() if not held_out(record.family)]
    found = json.loads(json.dumps(learn(sample_of(known), trusted(known)).to_value()))
    assert found == json.loads(feasibility.WEIGHTS.read_text())


def test_trees_are_followed_and_added_up() -> None:
    tree = ((1, 5.0, 1, 2, 0.0), (LEAF, 0.0, 0, 0, -2.0), (LEAF, 0.0, 0, 0, 3.0))
    small = Judge(("sm_80",), 0.5, 2.0, (tree, tree))
    assert small.log_odds((9.0, 5.0, 1.0)) == pytest.approx(-1.5)
    assert small.log_odds((9.0, 5.1, 0.0)) == pytest.approx(6.5)


def test_the_judge_tells_extremes_apart() -> None:
    shape = AttentionShape(128, 128, 2)
    assert judge().targets
    for target in judge().targets:
        small, large = (
            log_odds_of_spills(config, shape, DEVICES[target])
            for config in (TileConfig(64, 32, 4, 1), TileConfig(256, 128, 4, 1))
        )
        assert small is not None and large is not None
        assert small < -2 and large > 2


def test_of_what_nothing_was_learned_nothing_is_said() -> None:
    config, shape = TileConfig(64, 64, 4, 2), AttentionShape(64, 64, 2)
    assert log_odds_of_spills(config, shape, DEVICES["gfx942"]) is None
    assert log_odds_of_spills(config, shape, DEVICES["sm_100"]) is None
    swapped = AttentionShape(64, 64, 2, swapped=True)
    assert log_odds_of_spills(config, swapped, DEVICES["sm_90"]) is None


def test_features_are_as_many_as_their_names() -> None:
    found = features_of(TileConfig(64, 64, 4, 2), AttentionShape(64, 64, 2), DEVICES["sm_90"])
    assert len(found) == len(FEATURES)
    assert all(-1 <= node[0] < len(FEATURES) for tree in judge().trees for node in tree)


def test_weights_for_other_features_know_of_no_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    value = {**json.loads(feasibility.WEIGHTS.read_text()), "features": ["one"]}
    other = tmp_path / "feasibility.json"
    other.write_text(json.dumps(value))
    monkeypatch.setattr(feasibility, "WEIGHTS", other)
    judge.cache_clear()
    try:
        assert judge().targets == ()
    finally:
        judge.cache_clear()


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_a_few_kernels_compiled_now_are_as_they_were(target: str) -> None:
    """Whatever the installed Triton, shared memory is as predicted, and what was far from spilling does not."""
    for configuration in islice(configurations(target), 4):
        record = compiled_apart(configuration)
        assert 0 < record.shared <= record.predicted
        shape = AttentionShape(**record.shape)
        odds = log_odds_of_spills(configuration.config, shape, DEVICES[target])
        assert odds is None or abs(odds) < 2 or (record.loop_spills > 0) == (odds > 0)
