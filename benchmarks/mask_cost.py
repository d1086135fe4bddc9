"""What it costs to know a mask: analysis when a kernel is made, lists of tiles when it runs, and what they save.

    python benchmarks/mask_cost.py [--quick] [--json FILE]

Compile time: how long the plan of each family's mask takes, with the count of its tiles at 32K. Run
time: on this CPU, the kernel that finds the extremes of documents over tiles beside the attention it
saves; and each family's attention beside attention without a mask. For comparison, PyTorch's
create_block_mask on a causal mask, in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from attir.compiler.attention_cases import Case, Shape
from attir.compiler.kernels import compile_site
from attir.compiler.native_calls import Tabled
from attir.compiler.native_runtime import NativeRunner
from attir.compiler.options import Options
from attir.ir.attributes import f32
from attir.ir.dialects.attn import AttentionOp
from attir.passes.count_tiles import count_tiles
from attir.passes.mask_plan import MaskPlan
from benchmarks.cpu.machine import description
from benchmarks.mask_families import FAMILIES, MaskCase

LONG, MEDIUM, WIDTH = 32768, 4096, 64
BLOCK = 64
MOST_ANALYSIS = 0.020
"""Seconds that the analysis of a mask may take."""
BLOCK_MASK_BYTES = 11 * LONG * LONG
"""What create_block_mask takes at its peak for 32K: ten bytes a score, and some to spare."""


@dataclass(frozen=True)
class Analysis:
    """The analysis of one family when its kernel is made: seconds, and what was found for 32K."""

    family: str
    kind: str
    seconds: float
    live: int
    full: int
    total: int


def analyse(family: str, length: int = LONG, rounds: int = 5) -> Analysis:
    module = MaskCase(f32, WIDTH, form=family, unit=length // 64).module()
    mask = next(AttentionOp(op) for op in module.walk() if AttentionOp.match(op)).mask
    seconds: list[float] = []
    for _ in range(rounds):
        start = time.perf_counter()
        plan = MaskPlan.of(mask)
        count = count_tiles(plan.forms, length, length, BLOCK, BLOCK)
        seconds.append(time.perf_counter() - start)
    return Analysis(family, plan.kind, statistics.median(seconds), count.live, count.full, count.total)  # pyright: ignore[reportPossiblyUnboundVariable]


@dataclass(frozen=True)
class Lists:
    """Documents on this CPU: seconds and bytes of their lists, and of attention with and without them."""

    family: str
    length: int
    heads: int
    list_seconds: float
    list_bytes: int
    attention_seconds: float
    dense_seconds: float

    @property
    def part_of_saved(self) -> float:
        return self.list_seconds / (self.dense_seconds - self.attention_seconds)


def build_lists(family: str, length: int, heads: int) -> Lists:
    case = MaskCase(f32, WIDTH, form=family, unit=length // 32, lse=False)
    q, k, v, captures = case.tensors(Shape(1, heads, heads, length, length))
    run = runner(case)
    attention = best(lambda: run(q, k, v, captures, False), 3)
    plan = next(iter(run._plans.values()))  # pyright: ignore[reportPrivateUsage]
    assert isinstance(plan, Tabled)
    lists = best(lambda: plan.tables(q, k, captures), 20)
    found = plan.tables(q, k, captures)
    dense = runner(Case(f32, WIDTH, lse=False))
    plain = best(lambda: dense(q, k, v, (), False), 2)
    return Lists(family, length, heads, lists, found.numel() * found.element_size(), attention, plain)


@dataclass(frozen=True)
class Saving:
    """Attention under a mask beside attention without one: the part of scores kept, and the times' ratio."""

    family: str
    kept: float
    speedup: float


def save(family: str, length: int, heads: int, dense_seconds: float) -> Saving:
    case = MaskCase(f32, WIDTH, form=family, unit=length // 8, lse=False)
    q, k, v, captures = case.tensors(Shape(1, heads, heads, length, length))
    run = runner(case)
    seconds = best(lambda: run(q, k, v, captures, False), 3)
    keep = case.rule.keep
    assert keep is not None
    positions = torch.arange(length)
    kept = keep(positions[:, None], positions[None, :], captures).float().mean().item()
    return Saving(family, kept, dense_seconds / seconds)


def dense_time(length: int, heads: int) -> float:
    case = Case(f32, WIDTH, lse=False)
    q, k, v, _ = case.tensors(Shape(1, heads, heads, length, length))
    run = runner(case)
    return best(lambda: run(q, k, v, (), False), 3)


def runner(case: Case) -> NativeRunner:
    return cast("NativeRunner", compile_site(case.module(), Options(backend="native")).runner)


def best(call: Callable[[], Any], rounds: int) -> float:
    """The least seconds of CPU time of this thread, after one call that is not counted."""
    call()
    found: list[float] = []
    for _ in range(rounds):
        start = time.thread_time()
        call()
        found.append(time.thread_time() - start)
    return min(found)


@dataclass(frozen=True)
class BlockMask:
    """create_block_mask on a causal mask of `length`: seconds and peak bytes of its process beyond the start's."""

    length: int
    seconds: float
    peak_bytes: int
    note: str = ""


def block_mask_length(available: int) -> int:
    """The longest causal mask, at most 32K, for which there is memory."""
    length = LONG
    while length > 1024 and available < BLOCK_MASK_BYTES * (length / LONG) ** 2:
        length //= 2
    return length


def available_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def time_block_mask(length: int) -> BlockMask:
    """In a process of its own, whose peak memory says what it took."""
    command = [sys.executable, __file__, "--block-mask", str(length)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    note = "" if length == LONG else f"not at {LONG}; time and memory grow with the square of the length"
    return BlockMask(length, found["seconds"], found["peak_bytes"], note)


def block_mask_here(length: int) -> dict[str, Any]:
    from torch.nn.attention.flex_attention import create_block_mask

    def causal(b: Any, h: Any, m: Any, n: Any) -> Any:
        return m >= n

    create_block_mask(causal, None, None, 256, 256, "cpu")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    create_block_mask(causal, None, None, length, length, "cpu")
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak_bytes": 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)}


def measure(*, quick: bool) -> dict[str, Any]:
    """Everything, as a JSON object."""
    torch.set_num_threads(1)
    long, medium, heads = (2048, 1024, 1) if quick else (LONG, MEDIUM, 4)
    families = FAMILIES[:3] if quick else FAMILIES
    analyses = [analyse(family, long) for family in families]
    lists = [build_lists(family, long, heads) for family in ("documents", "causal documents")]
    dense = dense_time(medium, heads)
    length = 1024 if quick else block_mask_length(available_bytes())
    return {
        "machine": description(),
        "analysis": [asdict(x) for x in analyses],
        "lists": [{**asdict(x), "part_of_saved": x.part_of_saved} for x in lists],
        "savings": [asdict(save(family, medium, heads, dense)) for family in families],
        "create_block_mask": asdict(time_block_mask(length)),
    }


def table(record: dict[str, Any]) -> list[str]:
    """The figures as lines to read."""
    lines = ["analysis, seconds and tiles:"]
    for x in record["analysis"]:
        over = " TOO LONG" if x["seconds"] > MOST_ANALYSIS else ""
        count = f"{x['live']} of {x['total']} live, {x['full']} full"
        lines.append(f"  {x['family']:20} {x['kind']:7} {1e3 * x['seconds']:6.1f} ms  {count}{over}")
    for x in record["lists"]:
        part = f"{100 * x['part_of_saved']:.4f} % of the attention saved"
        lines.append(f"lists of {x['family']}: {1e3 * x['list_seconds']:.2f} ms, {x['list_bytes']} bytes, {part}")
    lines += [f"  {x['family']:20} keeps {x['kept']:.3f}, {x['speedup']:.1f} x as fast" for x in record["savings"]]
    mask = record["create_block_mask"]
    lines.append(
        f"create_block_mask, causal, {mask['length']}: {mask['seconds']:.1f} s, {mask['peak_bytes'] / 1e9:.2f} GB "
        f"{mask['note']}".rstrip()
    )
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="short sequences and few families")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    parser.add_argument("--block-mask", type=int, metavar="LENGTH", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.block_mask:
        print(json.dumps(block_mask_here(options.block_mask)))
        return 0
    record = measure(quick=options.quick)
    print("\n".join(table(record)))
    if options.json:
        options.json.write_text(json.dumps(record, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
