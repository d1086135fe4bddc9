"""Everything that wants a GPU, in one command: tests, correctness, speed; one JSON, a short table last.

    python benchmarks/gpu/run.py                     on a GPU: all of it
    python benchmarks/gpu/run.py --correctness-only  the generated kernels against float64
    python benchmarks/gpu/run.py --collect FILE      more candidates, whose times and schedules the JSON lists; and
                                                     FILE gets times to train the cost model on, in a third of the time
    python benchmarks/gpu/run.py --budget 300        seconds for all of it; 480 without

Times the planner's choice, its runners-up and other ways to run it beside SDPA (each of its
backends), compiled FlexAttention, and the ceilings of the device: a large copy and a large matrix
product. What a kernel computes is checked before it is timed. Contenders take turns, round by
round, on copies of their inputs that no cache holds; medians are printed, all times are kept.
Without a GPU it runs the correctness part in Triton's interpreter, so that it cannot rot.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# A checkout need not be installed: `typings` holds the package as links to its rooms.
sys.path[:0] = [str(ROOT / "typings"), str(ROOT)]

import torch  # noqa: E402

from attir.compiler.collect_command import run as collect_times  # noqa: E402
from benchmarks.gpu.bench import Budget, cuda_bench  # noqa: E402
from benchmarks.gpu.kernels import check, problems  # noqa: E402
from benchmarks.gpu.record import HEADER, Record  # noqa: E402
from benchmarks.gpu.speed import speed  # noqa: E402
from benchmarks.gpu.table import figures  # noqa: E402

__all__ = ["check", "main", "problems"]
SECONDS = 480.0
TESTS_SHARE, CHECKS_SHARE = 0.25, 0.5
"""The part of all time that the tests may take, and of what is left then the part that checks may take."""

COLLECT_SHARE = 1 / 3
"""The part of all time that goes into times for the cost model, where they are asked for."""


def run_tests(seconds: float) -> str:
    """The closing line of the GPU tests, which may take so long."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "tests/gpu", "-q", "--confcutdir=tests/gpu"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=seconds)
    except subprocess.TimeoutExpired:
        return f"not run to the end: more than {seconds:.0f} s"
    print(done.stdout[-3000:], done.stderr[-1000:], flush=True)
    return f"exit {done.returncode}: {(done.stdout.strip().splitlines() or ['no output'])[-1]}"


def correctness(record: Record, device: str, budget: Budget | None = None) -> bool:
    """Check every problem, or as many as the budget allows; print what is found."""
    reserved = 0.0 if budget is None else (1 - CHECKS_SHARE) * budget.left
    for number, (case, shape) in enumerate(problems(large=device == "cuda")):
        if budget is not None and budget.left < reserved:
            record.absent["correctness"] = f"no time for more than {number} problems"
            break
        record.checked.append(check(case, shape, device))
        found = record.checked[-1]
        print(
            f"{'ok   ' if found.holds else 'WRONG'} {found.case}: {found.error:.1e} (bound {found.bound:.1e})",
            flush=True,
        )
    return all(found.holds for found in record.checked)


def arguments_of(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--correctness-only", action="store_true", help="no tests, no times")
    parser.add_argument("--speed-only", action="store_true", help="no tests, and only what is timed is checked")
    parser.add_argument("--collect", type=Path, metavar="FILE", help="time more candidates, for the cost model")
    parser.add_argument("--budget", type=float, default=SECONDS, metavar="S", help="seconds for the times")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where the JSON goes (benchmarks/results/)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """1 where a test or a kernel fails, else 0; figures below their bars are no failure."""
    arguments = arguments_of(argv)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    collected = COLLECT_SHARE * arguments.budget if arguments.collect else 0.0
    record, budget = Record.start(), Budget.of(arguments.budget - collected)
    timed = device == "cuda" and not arguments.correctness_only
    if timed and not arguments.speed_only:
        record.tests = run_tests(TESTS_SHARE * arguments.budget)
    right = (timed and arguments.speed_only) or correctness(record, device, budget if timed else None)
    if timed:
        speed(record, cuda_bench(), budget, collect=bool(arguments.collect))
        if arguments.collect:
            collect_times(["--collect", "--gpu", "--out", str(arguments.collect), "--seconds", str(collected)])
        record.figures = figures(record)
        right = all(found.holds for found in record.checked)
    if timed or arguments.out:
        _write(record, arguments.out)
    if timed:
        _print_table(record)
    else:
        print("nothing was timed" + (": no GPU, kernels ran in Triton's interpreter" if device == "cpu" else ""))
    return 0 if right and record.tests.startswith(("not run", "exit 0")) else 1


def _write(record: Record, out: Path | None) -> None:
    name = f"gpu.{record.device.replace(' ', '-').lower()}.{record.date}.json"
    path = out or ROOT / "benchmarks" / "results" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(record), indent=1) + "\n")
    print(f"written to {path}")


def _print_table(record: Record) -> None:
    """What could not run, then the figures."""
    for name, reason in record.absent.items():
        print(f"absent: {name}: {reason}")
    print(f"\n{HEADER}")
    print(*record.figures, sep="\n")


if __name__ == "__main__":
    sys.exit(main())
