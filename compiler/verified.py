"""What must prove itself on a device before it is used there: warps that only load. A check, and its record.

The language gives no promise about them on Hopper, and no test without a device can find a hang. So a
child process runs a few problems first, against float64, and its verdict is kept beside the kernels: for
this device, this version of Triton, and this version of attir.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from ..ir.diagnostics import error
from ..ir.dialects.attn import AttentionOp
from ..passes.analyze_mask import analyze_mask
from ..passes.specialise import cannot_specialise
from .kernel_cache import cache_directory, write_atomically
from .version import VERSION

TIMEOUT = 300.0
"""Seconds after which a check that has not ended is taken to hang."""

WORTH = 1.02
"""How many times faster a kind of kernel must have been measured before the planner takes it unasked."""

CHILD = ("-m", "attir.compiler.verify_specialised")


@dataclass(frozen=True)
class Verdict:
    """Whether a check passed, and why not; `speedups` over plain kernels by problem, as `problem_name` has them."""

    passed: bool
    reason: str = ""
    date: str = ""
    speedups: Mapping[str, float] = field(default_factory=dict[str, float])


def machine_key(backend: str) -> str:
    """What a verdict holds for."""
    name = "interpreter"
    if backend == "triton":
        import torch

        name = cast(Any, torch).cuda.get_device_name()
    return f"specialised | {name} | triton {importlib.metadata.version('triton')} | attir {VERSION}"


def record_file() -> Path:
    return cache_directory() / "verified.json"


def recorded(key: str) -> Verdict | None:
    """The verdict that is kept; None where there is none, or none that can be read."""
    try:
        entry = json.loads(record_file().read_text())[key]
        return Verdict(bool(entry["passed"]), str(entry["reason"]), str(entry["date"]), dict(entry["speedups"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def record(key: str, verdict: Verdict) -> None:
    """Keep a verdict beside those of other devices; a cache that cannot be written is not an error."""
    known: Any
    try:
        known = json.loads(record_file().read_text())
    except (OSError, ValueError):
        known = None
    known = cast("dict[str, Any]", known) if isinstance(known, dict) else {}
    try:
        write_atomically(record_file(), json.dumps({**known, key: asdict(verdict)}, indent=1).encode())
    except OSError:
        return


def check(backend: str, *, timeout: float = TIMEOUT, command: Sequence[str] = CHILD) -> Verdict:
    """Run the check in a process of its own, and keep its verdict."""
    key, today = machine_key(backend), datetime.datetime.now(datetime.UTC).date().isoformat()
    verdict = Verdict(date=today, **_outcome([sys.executable, *command, backend], timeout))
    record(key, verdict)
    return verdict


def _outcome(command: Sequence[str], timeout: float) -> dict[str, Any]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, env=environment)
    except subprocess.TimeoutExpired:
        return {"passed": False, "reason": f"it did not end within {timeout:g} s, as a kernel that hangs"}
    try:
        found = json.loads(done.stdout.strip().splitlines()[-1])
        return {name: found[name] for name in ("passed", "reason", "speedups")}
    except (IndexError, ValueError, KeyError, TypeError):
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        return {"passed": False, "reason": f"it ended with exit status {done.returncode}: {last}"}


def require(backend: str) -> Verdict:
    """The verdict for this device, found now if it is the first time; CompileError where it is not good."""
    verdict = recorded(machine_key(backend)) or check(backend)
    if not verdict.passed:
        raise error(
            f"kernels with specialised warps did not pass their check on this device ({verdict.date}): "
            f"{verdict.reason}; remove the entry from {record_file().name} in the cache to try again"
        )
    return verdict


def problem_name(causal: bool, width: int) -> str:
    return f"{'causal' if causal else 'dense'}, D={width}"


def worthwhile(attention: AttentionOp, backend: str) -> bool:
    """Whether the record of this device says that specialised warps pass, and pay for an attention like this."""
    verdict = recorded(machine_key(backend))
    if verdict is None or not verdict.passed or cannot_specialise(attention):
        return False
    structure, width = analyze_mask(attention.mask), attention.shapes[1].shape[3]
    plain = attention.score.empty and attention.weight.empty and structure.lower is None
    name = problem_name(structure.upper is not None, width if isinstance(width, int) else 0)
    return plain and verdict.speedups.get(name, 0.0) >= WORTH
