"""How long tuning takes until an attention has run once: beside FlexAttention's, and beside trying everything."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import Any

from benchmarks.cpu.latency import child
from benchmarks.grouped import Row, Settings

PROBLEMS = (("causal", "f32", "64", "1024"), ("alibi", "bf16", "128", "2048"), ("document", "f32", "64", "2048"))
SHARE = 0.1
"""Of what the others take."""

WAYS = ("off", "top3", "full")


def tuning_time(settings: Settings) -> Iterator[Row]:
    """Seconds of a first call, each in a process and with caches of its own; what is imported is not counted."""
    for problem in PROBLEMS[:1] if settings.quick else PROBLEMS:
        told = {way: _fresh("tuned", way, *problem) for way in WAYS} | {"flex": _fresh("flex", *problem)}
        yield judged(f"{problem[0]}, {problem[1]}, D {problem[2]}, N {problem[3]}, 8 heads", told)


def _fresh(task: str, *arguments: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="attir-") as folder:
        return child(task, folder, *arguments, module="benchmarks.planned.children")


def judged(what: str, told: dict[str, dict[str, Any]]) -> Row:
    """Whether measuring three takes a small part of what trying all takes, and of what Flex takes."""
    seconds = {way: float(found["seconds"]) for way, found in told.items()}
    of_flex, of_all = seconds["top3"] / seconds["flex"], seconds["top3"] / seconds["full"]
    figures: dict[str, float | str] = {
        "top3 s": seconds["top3"], "of Flex": of_flex, "of exhaustive": of_all, "Flex s": seconds["flex"],
        "exhaustive s": seconds["full"], "without measuring s": seconds["off"], "measured": told["full"]["source"],
    }  # fmt: skip
    held = max(of_flex, of_all) <= SHARE
    times = {way: [taken] for way, taken in seconds.items()}
    return Row(f"tuning time, {what}", figures, f"<= {SHARE} of both", held, told["flex"]["note"], times)
