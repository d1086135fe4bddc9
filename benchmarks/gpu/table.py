"""The closing table: each figure from the times of one run, with its bar and stretch beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.gpu.layer import LayerSize
from benchmarks.gpu.problems import PROBLEMS, Problem
from benchmarks.gpu.record import Figure, Record, Timed
from benchmarks.gpu.speed import CEILING, LAYER

OURS = "attir"
LAYER_BAR = 1.0


def figures(record: Record, problems: Sequence[Problem] = PROBLEMS, layer: LayerSize = LAYER) -> list[Figure]:
    """One figure for each problem that was timed, and one for the layer."""
    found = [figure for problem in problems for figure in _figure(record, problem)]
    times = record.of(layer.title)
    if {"attir", "torch.compile"} <= times.keys():
        ratio = times["torch.compile"].median / times["attir"].median
        found.append(Figure(f"{layer.title} against torch.compile", ratio, "x", LAYER_BAR, None))
    return found


def _figure(record: Record, problem: Problem) -> list[Figure]:
    times = record.of(problem.title)
    best = fastest({name: timed for name, timed in times.items() if name.startswith(OURS)})
    rivals = {name: timed for name, timed in times.items() if not name.startswith(OURS)}
    if best is None:
        return []
    if problem.kind == "forward":
        value, unit, note = best.flops / best.median / 1e9, "TFLOP/s", _against(rivals, best)
    elif problem.kind == "decode":
        copy = record.of(CEILING)["copy"]
        share = (best.bytes / best.median) / (copy.bytes / copy.median)
        value, unit, note = share, "of the copy", f"{best.bytes / best.median / 1e9:.2f} TB/s"
    else:
        others = {"flex": rivals["flex"]} if problem.kind == "variant" and "flex" in rivals else rivals
        rival = fastest({} if problem.kind == "variant" and "flex" not in rivals else others)
        if rival is None:
            return []
        value, unit, note = rival.median / best.median, "x", f"{rival.contender} {rival.median:.3f} ms"
    name = best.contender if best.contender != OURS else "as planned"
    return [Figure(problem.title, value, unit, problem.bar, problem.stretch, f"{name}; {note}" if note else name)]


def fastest(times: Mapping[str, Timed]) -> Timed | None:
    """The contender with the least median."""
    return min(times.values(), key=lambda timed: timed.median, default=None)


def _against(rivals: Mapping[str, Timed], best: Timed) -> str:
    rival = fastest(rivals)
    return "" if rival is None else f"{rival.contender} {best.flops / rival.median / 1e9:.0f}"
