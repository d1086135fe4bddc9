"""The command for a GPU runs its correctness part without one, so that it cannot rot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.gpu.run import main


def test_correctness_runs_in_the_interpreter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "record.json"
    assert main(["--correctness-only", "--out", str(file)]) == 0
    record = json.loads(file.read_text())
    assert record["versions"]["triton"] and len(record["checked"]) > 15
    assert all(found["error"] <= found["bound"] for found in record["checked"])
    assert "WRONG" not in capsys.readouterr().out
