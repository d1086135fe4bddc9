"""Everything that wants a GPU, in one command: tests, correctness, speed; one JSON at the end.

    python benchmarks/gpu/run.py                     on a GPU: all of it
    python benchmarks/gpu/run.py --correctness-only  the generated kernels against float64

Times generated kernels beside SDPA (each of its backends), compiled FlexAttention, and the
ceilings of the device: a large copy and a large matrix product. The rivals take turns, round by
round, with the second-level cache flushed before each; medians are printed, all times are kept.
Without a GPU it runs the correctness part in Triton's interpreter, so that it cannot rot.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

ROOT = Path(__file__).resolve().parents[2]
# A checkout need not be installed: `typings` holds the package as links to its rooms.
sys.path[:0] = [str(ROOT / "typings"), str(ROOT)]

import torch  # noqa: E402
from torch.nn import functional  # noqa: E402
from torch.nn.attention import SDPBackend, flex_attention, sdpa_kernel  # noqa: E402

from attir.compiler.kernels import compile_site  # noqa: E402
from attir.compiler.options import Options  # noqa: E402
from attir.compiler.sites import Runner  # noqa: E402
from attir.ir.attributes import bf16, f16, f32  # noqa: E402
from benchmarks.attention_cases import FORMS, Case, Shape  # noqa: E402

ROUNDOFF = {f16: 2.0**-11, bf16: 2.0**-8, f32: 2.0**-24}
BACKENDS = {
    "sdpa flash": SDPBackend.FLASH_ATTENTION,
    "sdpa cudnn": SDPBackend.CUDNN_ATTENTION,
    "sdpa efficient": SDPBackend.EFFICIENT_ATTENTION,
    "sdpa math": SDPBackend.MATH,
}
ROUNDS = 15
Call = Callable[[], Any]


@dataclass(frozen=True)
class Checked:
    """One kernel against attention in float64; `bound` is twice the plain error plus rounding."""

    case: str
    error: float
    bound: float

    @property
    def holds(self) -> bool:
        return self.error <= self.bound


@dataclass(frozen=True)
class Timed:
    """Raw times of one contender, in milliseconds, with the work it did where that makes sense."""

    problem: str
    contender: str
    milliseconds: Sequence[float]
    flops: float = 0.0
    bytes: float = 0.0

    def __str__(self) -> str:
        median = statistics.median(self.milliseconds)
        rate = f"{self.flops / median / 1e9:8.1f} TFLOP/s" if self.flops else f"{self.bytes / median / 1e9:8.2f} TB/s"
        return f"{self.problem:<34} {self.contender:<16} {median:9.4f} ms {rate}"


@dataclass
class Record:
    """What the JSON holds."""

    date: str
    device: str
    versions: Mapping[str, str]
    tests: str = "not run"
    checked: list[Checked] = field(default_factory=list[Checked])
    timed: list[Timed] = field(default_factory=list[Timed])
    absent: dict[str, str] = field(default_factory=dict[str, str])


# --- correctness


def problems(large: bool) -> list[tuple[Case, Shape]]:
    """Every form, dtype, a spread of head dimensions; lengths that no tile divides."""
    length = 333 if large else 70
    found = [
        (Case(dtype, 64, form=form), Shape(2, 4, 4, length, length + 9)) for form in FORMS for dtype in (f16, bf16)
    ]
    widths = (16, 72, 80, 96, 128, 192, 256) if large else (72, 128)
    found += [(Case(f16, width, form="causal"), Shape(1, 2, 2, length, length)) for width in widths]
    found += [
        (Case(f16, 64, group=4, form="alibi"), Shape(1, 4, 1, length, length)),
        (Case(f32, 64, form="causal"), Shape()),
    ]
    return found


def runner_for(case: Case, device: str) -> Runner:
    return compile_site(case.module(), Options(backend="triton" if device == "cuda" else "interpret")).runner


def check(case: Case, shape: Shape, device: str) -> Checked:
    """Run one problem and measure its error."""
    q, k, v, captures = case.tensors(shape, device=device)
    out, _ = runner_for(case, device)(q, k, v, captures, True)
    exact, _ = case.reference(q.double(), k.double(), v.double(), captures)
    plain, _ = case.reference(q, k, v, captures)
    error, plain_error = ((x.double() - exact).abs().max().item() for x in (out, plain))
    bound = 2 * plain_error + 2 * ROUNDOFF[case.dtype] * v.abs().max().item()
    name = f"{case.form} {case.dtype} D={case.width} group={case.group} M={shape.queries} N={shape.keys}"
    return Checked(name, error, bound)


# --- speed


def milliseconds(calls: Mapping[str, Call], rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Times of each call, taken in turns; everything is warm before the first."""
    flush = torch.empty(256 * 2**20, dtype=torch.int8, device="cuda")
    times: dict[str, list[float]] = {name: [] for name in calls}
    for name in [n for n in calls for _ in range(3)]:
        calls[name]()
    for name in [n for _ in range(rounds) for n in calls]:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        flush.zero_()
        start.record()
        calls[name]()
        end.record()
        torch.cuda.synchronize()
        times[name].append(start.elapsed_time(end))
    return times


def contenders(case: Case, shape: Shape, record: Record) -> dict[str, Call]:
    """What runs one problem; a rival that refuses it is noted with its words."""
    q, k, v, captures = case.tensors(shape, device="cuda")
    ours = runner_for(case, "cuda")
    calls: dict[str, Call] = {"attir": lambda: ours(q, k, v, captures, False)}
    group = case.group > 1
    causal = case.form == "causal"
    if case.form in ("none", "causal"):
        for name, backend in BACKENDS.items():
            calls[name] = _sdpa(backend, q, k, v, causal, group)
    calls["flex"] = _flex(case, q, k, v, captures, group)
    for name in list(calls):
        try:
            calls[name]()
            torch.cuda.synchronize()
        except Exception as problem:  # whatever a rival raises for what it cannot do
            record.absent[f"{name}: {_title(case, shape)}"] = str(problem).splitlines()[0]
            del calls[name]
    return calls


def _sdpa(backend: SDPBackend, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, group: bool) -> Call:
    def call() -> Any:
        with sdpa_kernel(backend):
            return functional.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=group)

    return call


def _flex(
    case: Case, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, captures: Sequence[torch.Tensor], group: bool
) -> Call:
    """FlexAttention as its users write it: a block mask for the mask, a score function for the score."""
    cast(Any, torch)._dynamo.reset()  # after some variants it would silently run uncompiled
    flexible = cast(Any, torch).compile(flex_attention.flex_attention)
    masks: dict[str, Callable[[Any, Any, Any, Any], Any]] = {
        "causal": lambda b, h, m, n: n <= m,
        "window": lambda b, h, m, n: (n <= m) & (n > m - 40),
    }
    scores: dict[str, Callable[[Any, Any, Any, Any, Any], Any]] = {
        "alibi": lambda s, b, h, m, n: s + captures[0][h] * (n - m),
        "softcap": lambda s, b, h, m, n: 20.0 * torch.tanh(s / 20.0),
    }
    block_mask: Any = None
    if case.form in masks:
        block_mask = cast(Any, flex_attention).create_block_mask(masks[case.form], None, None, q.shape[2], k.shape[2])
    score = scores.get(case.form)
    return lambda: flexible(q, k, v, score_mod=score, block_mask=block_mask, enable_gqa=group)


def _title(case: Case, shape: Shape) -> str:
    heads = f"{shape.heads}/{shape.key_heads}"
    return f"{case.form} {case.dtype} B{shape.batch} H{heads} S{shape.queries} D{case.width}"


def flops(case: Case, shape: Shape) -> float:
    """Of the two products, counted on the scores that a causal or window mask keeps."""
    m, n = shape.queries, shape.keys
    kept = {"causal": m * (m + 1) / 2, "window": m * 40.0}.get(case.form, float(m * n))
    return 4.0 * shape.batch * shape.heads * kept * case.width


def speed(record: Record) -> None:
    """Fill in the times of every problem and the ceilings."""
    shapes = [(4, 1024), (2, 4096), (1, 8192), (1, 16384)]
    forms = {64: ("none", "causal"), 128: ("none", "causal", "window", "alibi", "softcap")}
    grid = [
        (Case(bf16, w, form=f, lse=False), Shape(b, 32, 32, s, s)) for w in forms for f in forms[w] for b, s in shapes
    ]
    grid += [(Case(bf16, 128, group=4, form="causal", lse=False), Shape(1, 32, 8, 8192, 8192))]
    for case, shape in grid:
        title = _title(case, shape)
        for name, times in milliseconds(contenders(case, shape, record)).items():
            record.timed.append(Timed(title, name, times, flops=flops(case, shape)))
            print(record.timed[-1], flush=True)
    record.timed += ceilings()
    print(*record.timed[-2:], sep="\n", flush=True)


def ceilings() -> list[Timed]:
    """The speed of a 4 GiB copy (bytes read and written) and of a bf16 product of 8192 cubed."""
    source = torch.empty(2**31, dtype=torch.bfloat16, device="cuda")
    target = torch.empty_like(source)
    a, b = (torch.randn(8192, 8192, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    times = milliseconds({"copy": lambda: target.copy_(source), "product": lambda: a @ b})
    return [
        Timed("ceiling", "copy", times["copy"], bytes=2.0 * source.numel() * 2),
        Timed("ceiling", "product", times["product"], flops=2.0 * 8192**3),
    ]


# --- the command


def start() -> Record:
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    versions = {name: importlib.metadata.version(name) for name in ("torch", "triton", "numpy")}
    versions["python"] = platform.python_version()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu, Triton's interpreter"
    return Record(date, device, versions)


def run_tests() -> str:
    """The closing line of the GPU tests."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "tests/gpu", "-q", "--confcutdir=tests/gpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(done.stdout[-3000:], done.stderr[-1000:], flush=True)
    return f"exit {done.returncode}: {(done.stdout.strip().splitlines() or ['no output'])[-1]}"


def correctness(record: Record, device: str) -> bool:
    """Check every problem; print those that fail."""
    for case, shape in problems(large=device == "cuda"):
        record.checked.append(check(case, shape, device))
        found = record.checked[-1]
        print(
            f"{'ok   ' if found.holds else 'WRONG'} {found.case}: {found.error:.1e} (bound {found.bound:.1e})",
            flush=True,
        )
    return all(found.holds for found in record.checked)


def main(argv: Sequence[str] | None = None) -> int:
    """1 where a test or a kernel fails, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--correctness-only", action="store_true", help="no tests, no times")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where the JSON goes (benchmarks/results/)")
    arguments = parser.parse_args(argv)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    record = start()
    complete = device == "cuda" and not arguments.correctness_only
    if complete:
        record.tests = run_tests()
    right = correctness(record, device)
    if complete:
        speed(record)
    if complete or arguments.out:
        name = f"gpu.{record.device.replace(' ', '-').lower()}.{record.date}.json"
        path = arguments.out or ROOT / "benchmarks" / "results" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(record), indent=1) + "\n")
        print(f"written to {path}")
    if device == "cpu":
        print("no GPU: kernels ran in Triton's interpreter, and nothing was timed")
    return 0 if right and record.tests.startswith(("not run", "exit 0")) else 1


if __name__ == "__main__":
    sys.exit(main())
