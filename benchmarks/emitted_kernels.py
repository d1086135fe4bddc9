"""What ptxas makes of the generated kernels: a table over head dimensions and mask kinds, without a GPU.

    python benchmarks/emitted_kernels.py                   the whole table for sm_80 and sm_90
    python benchmarks/emitted_kernels.py --quick           a small part of it
    python benchmarks/emitted_kernels.py --json FILE       also as JSON

The bars: no spill inside a loop, shared memory within the device, tensor cores in use (HGMMA on
sm_90, HMMA on sm_80).
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import itertools
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from attir.compiler.kernels import build_kernel  # noqa: E402  the benchmark runs from a checkout
from attir.compiler.offline import compile_offline  # noqa: E402
from attir.cost_model.devices import device_named  # noqa: E402
from attir.ir.attributes import FloatType, bf16, f16  # noqa: E402
from benchmarks.attention_cases import Case  # noqa: E402

TARGETS = ("sm_80", "sm_90")
WIDTHS = (64, 72, 80, 96, 128, 192, 256)
FORMS = ("none", "causal", "window", "alibi")
DTYPES = (f16, bf16)
QUICK = ((64, 128), ("none", "causal"), (f16,))
CORES = {"sm_80": "HMMA", "sm_90": "HGMMA"}


@dataclass(frozen=True)
class Row:
    """One kernel as compiled; `loops` are lengths in instructions, `seconds` the compile time."""

    target: str
    width: int
    form: str
    dtype: str
    tile: str
    warps: int
    stages: int
    registers: int
    spills: int
    loop_spills: int
    shared: int
    loops: tuple[int, ...]
    matrix: str
    seconds: float

    @property
    def meets_the_bars(self) -> bool:
        within = self.shared <= device_named(self.target).shared_memory
        return self.loop_spills == 0 and within and CORES[self.target] in self.matrix

    @property
    def cells(self) -> tuple[str, ...]:
        loops = "/".join(map(str, self.loops))
        spills = f"{self.loop_spills} ({self.spills} in all)"
        shape = (self.target, str(self.width), self.form, self.dtype, self.tile, str(self.warps), str(self.stages))
        return (*shape, str(self.registers), spills, str(self.shared), loops, self.matrix, f"{self.seconds:.1f}")


HEADER = (
    "target", "D", "mask", "dtype", "tile", "warps", "stages", "registers", "spills in loops", "shared B",
    "loop instructions", "tensor cores", "compile s",
)  # fmt: skip


def cases(quick: bool) -> Iterator[tuple[str, Case]]:
    """The targets and problems of the table."""
    widths, forms, dtypes = QUICK if quick else (WIDTHS, FORMS, DTYPES)
    for target, width, form, dtype in itertools.product(TARGETS, widths, forms, dtypes):
        yield target, Case(dtype, width, form=form, lse=False)


def measure(target: str, case: Case) -> Row:
    """Compile one problem for one device."""
    started = time.perf_counter()
    kernel = build_kernel(case.module(), target)
    compiled = compile_offline(kernel.triton, target)
    plan = kernel.plan
    return Row(
        target, case.width, case.form, _name(case.dtype), f"{plan['block_m']}x{plan['block_n']}", plan["num_warps"],
        plan["num_stages"], compiled.registers, compiled.spills, compiled.loop_spills, compiled.shared,
        compiled.loops, ", ".join(f"{n} {o}" for o, n in compiled.matrix_instructions.items()),
        time.perf_counter() - started,
    )  # fmt: skip


def _name(dtype: FloatType) -> str:
    return dtype.name


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table as Markdown; 1 where a kernel misses a bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small part of the table")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as well")
    arguments = parser.parse_args(argv)
    print("| " + " | ".join(HEADER) + " |")
    print("|" + "---|" * len(HEADER), flush=True)
    rows: list[Row] = []
    for target, case in cases(arguments.quick):
        rows.append(measure(target, case))
        print("| " + " | ".join(rows[-1].cells) + " |", flush=True)
    missed = [row for row in rows if not row.meets_the_bars]
    triton = importlib.metadata.version("triton")
    print(f"\n{len(rows) - len(missed)} of {len(rows)} kernels meet the bars (triton {triton})")
    if arguments.json:
        date = datetime.datetime.now(datetime.UTC).date().isoformat()
        record = {"date": date, "triton": triton, "rows": [asdict(row) for row in rows]}
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
