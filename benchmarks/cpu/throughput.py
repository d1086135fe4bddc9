"""Sections on speed: prefill beside SDPA, beside compiled FlexAttention and the multiply-add peak; decode."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Mapping

from attir.compiler.calibrate_cpu import beyond_caches

from . import rivals
from .machine import Peak, Reading
from .measuring import Call, Settings, Times, interleaved
from .problems import DTYPES, Decode, Problem
from .results import Bar, Row, Section

WIDTHS, LENGTHS, MASKS = (64, 128), (512, 1024, 2048, 4096), ("full", "causal")
SPECIAL = ("alibi", "softcap", "window", "document")
KEYS = (4096, 8192, 16384, 32768)
GIGA = 1e9


def heads(length: int) -> int:
    """So many that a call takes some milliseconds to some tens of them, and all threads have work."""
    return max(2, 8192 // length)


def plain_problems(quick: bool) -> Iterator[Problem]:
    """What SDPA has kernels for."""
    dtypes, lengths = (("f32", "bf16"), (1024,)) if quick else (DTYPES, LENGTHS)
    for dtype, width, length, mask in itertools.product(dtypes, WIDTHS, lengths, MASKS):
        yield Problem(mask, dtype, width, length, heads(length))


def flex_problems(quick: bool) -> Iterator[Problem]:
    """The same and what only FlexAttention and attir have kernels for."""
    if quick:
        yield from (Problem(m, d, 64, 1024, 8) for m, d in (("full", "f32"), ("causal", "bf16"), ("alibi", "f32")))
        return
    yield from plain_problems(quick)
    for form, (dtype, width) in itertools.product(SPECIAL, (("f32", 64), ("f32", 128), ("bf16", 64), ("f16", 128))):
        yield Problem(form, dtype, width, 2048, heads(2048))


def row(problem: Problem | Decode, threads: int, times: Times, figures: Mapping[str, float], note: str = "") -> Row:
    """`times` in milliseconds before the figures made of them."""
    medians = {f"{name} ms": 1e3 * times.median(name) for name in times.seconds}
    notes = "; ".join(n for n in (note, times.note) if n)
    return Row({"threads": str(threads), **problem.labels}, {**medians, **figures}, notes, times.seconds)


def prefill(settings: Settings) -> Section:
    """attir beside SDPA."""
    column = "× SDPA"
    title = "scaled_dot_product_attention on contiguous tensors, attir's compiled function beside PyTorch's"
    section = Section("prefill", title, (Bar(column, 1.05), Bar(column, 1.35, mean=True)))
    for problem in plain_problems(settings.quick):
        _progress(section, problem)
        calls = {"attir": rivals.attir_call(problem), "SDPA": rivals.sdpa_call(problem)}
        error = problem.check(calls["attir"](), "attir")
        for threads in settings.thread_counts:
            times = interleaved(calls, threads, settings.seconds)
            speed = problem.flops / times.median("attir") / GIGA
            figures = {"attir GF/s": speed, column: times.ratio("attir", "SDPA"), "error": error}
            section.rows.append(row(problem, threads, times, figures))
    return section


def flex(settings: Settings) -> Section:
    """attir beside compiled FlexAttention; a problem that Inductor refuses has a note and no ratio.

    The ratio "at peak" is that of the CPU's multiply-adds: no kernel that multiplies in f32 gets above.
    """
    column = "× Flex"
    title = "attention with a mask or changed scores, beside compiled flex_attention"
    section = Section("flex", title, (Bar(column, 3.5), Bar(column, 5, mean=True)))
    for problem in flex_problems(settings.quick):
        _progress(section, problem)
        ours = rivals.attir_call(problem)
        error = problem.check(ours(), "attir")
        for threads in settings.thread_counts:
            top = Peak(threads)
            calls, figures, note = {"attir": ours, "peak": top.call}, {"error": error}, ""
            try:
                calls["Flex"] = rivals.flex_call(problem, threads)
            except NotImplementedError as reason:
                note = f"Flex refuses: {reason}"
            else:
                problem.check(calls["Flex"](), "FlexAttention")
            times = interleaved(calls, threads, settings.seconds)
            if not note:
                at_peak = problem.flops * times.median("peak") / top.flops
                figures = {column: times.ratio("attir", "Flex"), "at peak": times.median("Flex") / at_peak, **figures}
            section.rows.append(row(problem, threads, times, figures, note))
    return section


def peak(settings: Settings) -> Section:
    """The part of the multiply-adds that the CPU can do; the bar is for the widest heads."""
    held, column = "of peak at D 128", "of peak"
    section = Section("peak", "f32, full, of a native loop of multiply-adds", (Bar(held, 0.75),))
    for width in WIDTHS:
        problem = Problem("full", "f32", width, 2048, heads(2048))
        _progress(section, problem)
        attention = {"attir": rivals.attir_call(problem), "SDPA": rivals.sdpa_call(problem)}
        problem.check(attention["attir"](), "attir")
        for threads in settings.thread_counts:
            top = Peak(threads)
            times = interleaved({**attention, "peak": top.call}, threads, settings.seconds)
            most = top.flops / times.median("peak")
            parts = {name: problem.flops / times.median(name) / most for name in attention}
            name = held if width == 128 else column
            figures = {"peak GF/s": most / GIGA, "SDPA of peak": parts["SDPA"], name: parts["attir"]}
            section.rows.append(row(problem, threads, times, figures))
    return section


def decode_problems(quick: bool) -> Iterator[Decode]:
    """More keys and values than caches hold."""
    dtypes, widths, lengths = (("f32", "bf16"), (128,), (4096, 32768)) if quick else (DTYPES, WIDTHS, KEYS)
    for dtype, width, length in itertools.product(dtypes, widths, lengths):
        yield Decode(dtype, width, length, beyond_caches())


def decode(settings: Settings) -> Section:
    """One query, 8 query heads a key head, beside both ways to ask SDPA for it, and of what memory gives."""
    folded, share = "× SDPA folded", "of read bandwidth"
    title = "one query, 8 query heads for each key head; SDPA with the heads folded into rows, and with enable_gqa"
    section = Section("decode", title, (Bar(folded, 1.25), Bar(share, 0.8)))
    readings = {threads: Reading(threads) for threads in settings.thread_counts}
    for problem in decode_problems(settings.quick):
        _progress(section, problem)
        calls = {"attir": rivals.decode_attir(problem), "SDPA folded": rivals.decode_folded(problem)}
        error = problem.check(calls["attir"](), "attir")
        problem.check(calls["SDPA folded"](), "SDPA folded")
        for threads, reading in readings.items():
            section.rows.append(_decode_row(problem, calls, reading, threads, settings.seconds, error))
    for threads, reading in readings.items():
        ways = ", ".join(f"{way} {gigabytes:.1f}" for way, gigabytes in reading.speeds.items())
        section.title += f"; GB/s of memory (threads {threads}): {ways}"
    return section


def _decode_row(
    problem: Decode, calls: Mapping[str, Call], reading: Reading, threads: int, seconds: float, error: float
) -> Row:
    times = interleaved({**calls, "read": reading.best}, threads, seconds)
    grouped = interleaved({"SDPA gqa": rivals.decode_grouped(problem)}, threads, 0, fewest=2)
    bandwidth = reading.buffer.nbytes / times.median("read")
    ours = problem.read_bytes / times.median("attir")
    figures = {
        "attir GB/s": ours / GIGA,
        "read GB/s": bandwidth / GIGA,
        "× SDPA gqa": grouped.median("SDPA gqa") / times.median("attir"),
        "× SDPA folded": times.ratio("attir", "SDPA folded"),
        "of read bandwidth": ours / bandwidth,
        "error": error,
    }
    return row(problem, threads, Times({**times.seconds, **grouped.seconds}, times.others), figures)


def _progress(section: Section, problem: Problem | Decode) -> None:
    print(f"{section.name}: {' '.join(problem.labels.values())}", file=sys.stderr, flush=True)
