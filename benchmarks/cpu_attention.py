"""Native attention on this CPU beside PyTorch's: every figure that the project is held to, with its bar.

    python benchmarks/cpu_attention.py                     everything; a quarter of an hour
    python benchmarks/cpu_attention.py --quick             a part of every section; some minutes
    python benchmarks/cpu_attention.py --only decode       one section; may be given more than once
    python benchmarks/cpu_attention.py --json FILE         also every raw time

Rivals take turns in one process and medians are compared: with one thread by CPU time, with all by
the wall's, when the machine should have nothing else to do. A result that is not right to rounding,
a FlexAttention that was not compiled and an attention that attir did not compile end the run. The
exit code is 1 where a bar is missed.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import torch  # noqa: E402  the benchmark runs from a checkout

from benchmarks.cpu import latency, models, throughput  # noqa: E402
from benchmarks.cpu.machine import description  # noqa: E402
from benchmarks.cpu.measuring import Settings  # noqa: E402
from benchmarks.cpu.results import Section, as_json  # noqa: E402

SECTIONS: Mapping[str, Callable[[Settings], Section]] = {
    "prefill": throughput.prefill,
    "flex": throughput.flex,
    "peak": throughput.peak,
    "decode": throughput.decode,
    "compile": latency.compiling,
    "reload": latency.reload,
    "overhead": latency.overhead,
    "memory": latency.memory,
    "model": models.models,
}


def measure(names: Sequence[str], settings: Settings) -> list[Section]:
    """Each section printed as soon as it is there."""
    found: list[Section] = []
    for name in names:
        started = time.perf_counter()
        section = SECTIONS[name](settings)
        found.append(section)
        print(f"{section}\n{name} took {time.perf_counter() - started:.0f} s\n", flush=True)
    return found


def summary(sections: Sequence[Section]) -> str:
    """Every bar in a line, and those that are missed once more with the figures that miss it."""
    verdicts = [(s.name, v) for s in sections for v in s.verdicts]
    lines = [f"{name:<9} {'pass' if v.met else 'FAIL'}  {v.bar}" for name, v in verdicts]
    met = sum(v.met for _, v in verdicts)
    return "\n".join(["### bars", "", *lines, "", f"{met} of {len(verdicts)} bars are met"])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a part of every section")
    parser.add_argument("--only", action="append", choices=list(SECTIONS), metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="how many all threads are")
    parser.add_argument("--seconds", type=float, help="to spend on a row; by default 0.6, with --quick 0.3")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every raw time there")
    arguments = parser.parse_args(argv)
    seconds = arguments.seconds or (0.3 if arguments.quick else 0.6)
    settings = Settings(arguments.quick, arguments.threads, seconds)
    machine = description()
    print(
        f"{machine['cpu']}, {settings.threads} threads, target {machine['target']}, {machine['versions']}\n", flush=True
    )
    before = os.environ.get("ATTIR_CACHE_DIR")
    with tempfile.TemporaryDirectory(prefix="attir-") as cache, torch.no_grad():
        os.environ["ATTIR_CACHE_DIR"] = cache
        try:
            sections = measure(arguments.only or list(SECTIONS), settings)
        finally:
            restore(before)
    print(summary(sections))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        head = {"benchmark": "cpu_attention", "machine": machine, "settings": settings.as_record()}
        arguments.json.write_text(as_json(head, sections), encoding="utf-8")
    return 0 if all(v.met for s in sections for v in s.verdicts) else 1


def restore(cache: str | None) -> None:
    """Put the user's cache back."""
    if cache is None:
        os.environ.pop("ATTIR_CACHE_DIR", None)
    else:
        os.environ["ATTIR_CACHE_DIR"] = cache


if __name__ == "__main__":
    sys.exit(main())
