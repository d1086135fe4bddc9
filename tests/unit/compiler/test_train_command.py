"""Training from files of records, and what is written; weights beside the data of this repository are those of it."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attir.compiler import train_command
from attir.compiler.train_command import KERNELS, REPORT, TIMES, fingerprint, run, table, train_kernels, train_times
from attir.compiler.training_samples import compile_samples, kernel_words, time_samples
from attir.cost_model.dataset import (
    COMPILES,
    CPU_TIMES,
    DATA,
    CaseFields,
    CompileRecord,
    Header,
    TimeRecord,
    Writer,
    read_times,
)
from attir.cost_model.families import held_out
from attir.cost_model.features import FEATURES, KERNEL_FEATURES
from attir.cost_model.learned import WEIGHTS, Learned, ensemble_of, learned_for
from attir.cost_model.problem import Sizes
from attir.cost_model.schedule import Schedule
from attir.cost_model.training.scores import time_scores
from attir.cost_model.training.text_model import TextSettings
from attir.ir.diagnostics import CompileError

WIDTHS, FORMS, KEYS = (32, 64, 96, 128), ("none", "causal", "softcap"), (256, 1000)
SCHEDULES = [
    Schedule(m, n, 1, 1, target="avx512", lanes=16, columns=4, edge_n=16) for m in (16, 32, 64) for n in (32, 128)
]
SHORT: dict[str, Any] = {"steps": 200, "rate": 1e-2, "decay": 0.1, "members": 4, "folds": 4, "width": 16}


def time_records() -> list[TimeRecord]:
    """Of a machine on which wide heads are slower than estimated, and low tiles more so."""
    found: list[TimeRecord] = []
    for width in WIDTHS:
        for form in FORMS:
            case, family = CaseFields("f32", width, width, 1, form), f"f32 D{width} g1 prefill: {form}"
            for keys in KEYS:
                for schedule in SCHEDULES:
                    bare = TimeRecord(family, case, Sizes(1, 2, 2, keys, keys), 0, schedule, 1e-3, 1e-3, 1.0, 0.01, 9)
                    slower = 1.5 + 0.2 * math.log2(width / 32) + 8.0 / schedule.block_m
                    seconds = slower * analytical(bare)
                    found.append(replace(bare, seconds=seconds, ratio=seconds / 1e-3))
    return found


def analytical(record: TimeRecord) -> float:
    return float(time_samples([record], "avx512").samples.analytical[0])


def compile_records() -> list[CompileRecord]:
    """Of a compiler that gives a thread what its tile needs."""
    found: list[CompileRecord] = []
    for width in WIDTHS:
        for form in FORMS:
            case, family = CaseFields("f16", width, width, 1, form), f"f16 D{width} g1 prefill: {form}"
            for m, n, warps in ((64, 32, 4), (64, 64, 4), (128, 64, 8), (128, 128, 4)):
                schedule = Schedule(m, n, warps, 2, target="sm_90")
                need = round(30 + (m * width + 1.5 * m * n) / (32 * warps))
                spilled = max(0, need - 255)
                found.append(
                    CompileRecord(
                        family, case, "sm_90", "3.9.0", 0, schedule, min(255, need), spilled, spilled, 0, (2 * need,),
                        {}, 1.0,
                    )
                )  # fmt: skip
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    header = Header(CPU_TIMES, "made up", {}, "2026-01-01", "none")
    Writer(tmp_path / "cpu_times.jsonl.gz", header).write(time_records())
    Writer(tmp_path / "compiles.jsonl.gz", replace(header, kind=COMPILES)).write(compile_records())
    return tmp_path


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings of a second."""
    monkeypatch.setattr(train_command, "TIMES", replace(TIMES, **SHORT))
    monkeypatch.setattr(train_command, "KERNELS", replace(KERNELS, **SHORT))
    small = TextSettings(train_command.KERNEL_TEXTS.kinds, width=8, epochs=2, within=0.0, best=0.0)
    monkeypatch.setattr(train_command, "KERNEL_TEXTS", small)
    monkeypatch.setattr(train_command, "TIME_TEXTS", replace(small, kinds=train_command.TIME_TEXTS.kinds))


def test_times_of_held_out_families_are_learned() -> None:
    result = train_times(time_records(), "avx512", "made up", text=False)
    assert result.counts["held-out samples"] >= 48
    analytical, features = result.scores["analytical"], result.scores["features"]
    assert features["error"] < 0.15 < analytical["error"]
    assert features["regret"] < 1.01 and result.shipped == "features"
    assert Learned(ensemble_of(result.arrays), "").correct([(0.0,) * len(FEATURES)])[0].shape == (1,)


def test_what_is_worse_than_the_analytical_model_is_not_shipped() -> None:
    """Times that are as estimated but for noise: nothing can be learned, and choices cannot get better."""
    exact = [replace(r, ratio=analytical(r) / r.reference, seconds=analytical(r)) for r in time_records()]
    result = train_times(exact, "avx512", "made up", text=False)
    assert result.scores["analytical"]["regret"] == 1.0
    assert result.shipped == "analytical" and not result.arrays


def test_both_learners_are_compared_on_kernels() -> None:
    result = train_kernels(compile_records(), "made up")
    assert set(result.scores) == {"features", "text"}
    assert result.scores["features"]["registers"] > 0.8
    assert all(name in table(result) for name in ("features", "text", "registers", "spills", "shipped"))


def test_the_same_data_give_the_same_files(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def trained(name: str) -> dict[str, str]:
        assert run(["--train", "--data", str(folder), "--out", str(tmp_path / name), "--no-text"]) == 0
        files = sorted((tmp_path / name).iterdir())
        return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}

    one, other = trained("one"), trained("other")
    assert one == other and set(one) == {REPORT, "time.avx512.npz", "kernel.gpus.npz"}
    report = json.loads((tmp_path / "one" / REPORT).read_text())
    assert report["data"] == fingerprint(folder)
    assert set(report["models"]) == {"time on avx512", "kernels"}
    assert "time on avx512" in capsys.readouterr().out


def test_without_data_there_is_nothing_to_learn(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match="there is nothing to learn from"):
        run(["--data", str(tmp_path), "--out", str(tmp_path)])


def test_samples_of_kernels() -> None:
    records = compile_records()
    failed = replace(records[0], registers=0, failed="timeout")
    samples = compile_samples([*records, failed]).samples
    assert samples.rows.shape == (len(records), len(KERNEL_FEATURES)) and len(set(samples.families)) == 12
    assert set(samples.answers[:, 1]) == {0.0, 1.0}


def test_a_slow_moment_of_the_machine_divides_out() -> None:
    """All seconds of one record are doubled, its ratio to the reference stays."""
    records = time_records()[:6]
    slow = [replace(records[0], seconds=2 * records[0].seconds, reference=2 * records[0].reference), *records[1:]]
    one, other = (time_samples(x, "avx512").samples.seconds for x in (records, slow))
    assert np.allclose(one, other)


def test_words_are_of_the_kernel_and_its_call() -> None:
    record = time_records()[0]
    (words,) = time_samples([record], "avx512").words()
    assert words[0] == "target=avx512" and "keys=256" in words
    assert words[-len(kernel_words(record.case, record.schedule)) :] == kernel_words(record.case, record.schedule)


# --- what lies in this repository


def shipped_records() -> list[TimeRecord]:
    return read_times(*sorted(DATA.glob(f"{CPU_TIMES}.*.jsonl.gz")))


def test_weights_are_of_the_data_beside_them() -> None:
    """Where this fails, data or features have changed: `attir tune --train` makes new weights."""
    report = json.loads((WEIGHTS / REPORT).read_text())
    assert report["data"] == fingerprint(DATA)
    assert sum(path.stat().st_size for path in WEIGHTS.iterdir()) < 300_000


def test_weights_are_as_good_as_reported() -> None:
    """Where this fails, the analytical model has changed: `attir tune --train` makes weights that fit it."""
    records = [r for r in shipped_records() if held_out(r.family)]
    samples = time_samples(records, "avx512").samples
    model = learned_for("avx512")
    assert model is not None
    ratio, _ = model.correct([tuple(row) for row in samples.rows])
    found = time_scores(samples.seconds, samples.analytical * np.exp(ratio), samples.problems).as_values()
    reported = json.loads((WEIGHTS / REPORT).read_text())["models"]["time on avx512"]["held out"]["features"]
    for name, value in found.items():
        assert value == pytest.approx(reported[name], rel=0.01, abs=0.002), name
    assert found["regret"] <= 1.04
    assert found["error"] <= 0.15 and found["spearman"] >= 0.85
