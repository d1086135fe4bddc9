"""What is measured, the most important first, each with the figure it must reach.

forward    TFLOP/s
variant    times as fast as compiled FlexAttention
decode     share of the bandwidth of a large copy
latency    times as fast as the best of SDPA and FlexAttention, one sequence
layer      times as fast as torch.compile, a whole layer of a model
"""

from __future__ import annotations

from dataclasses import dataclass

from attir.compiler.attention_cases import DTYPES, Case, Shape
from attir.ir.attributes import bf16

LISTED_WINDOW = 40


@dataclass(frozen=True)
class Problem:
    """One attention, what is asked of it, and what its figure is compared with."""

    kind: str
    case: Case
    shape: Shape
    bar: float
    stretch: float

    @property
    def title(self) -> str:
        heads = f"{self.shape.heads}/{self.shape.key_heads}"
        lengths = f"S{self.shape.queries}" if self.shape.queries == self.shape.keys else f"KV{self.shape.keys}"
        return f"{self.kind} {self.case.form} D{self.case.width} B{self.shape.batch} H{heads} {lengths}"

    @property
    def flops(self) -> float:
        """Of the two products, counted on the scores that a causal or window mask keeps; 0 where bytes count."""
        if self.kind in ("decode", "latency"):
            return 0.0
        m, n = self.shape.queries, self.shape.keys
        kept = {"causal": m * (m + 1) / 2, "window": m * float(LISTED_WINDOW)}.get(self.case.form, float(m * n))
        return 4.0 * self.shape.batch * self.shape.heads * kept * self.case.width

    @property
    def key_bytes(self) -> int:
        """Bytes of all keys and values."""
        rows = self.shape.batch * self.shape.key_heads * self.shape.keys
        return 2 * rows * self.case.width * DTYPES[self.case.dtype].itemsize

    @property
    def bytes(self) -> float:
        return float(self.key_bytes) if self.flops == 0 else 0.0


def forward(width: int, form: str, bar: float, stretch: float) -> Problem:
    return Problem("forward", Case(bf16, width, form=form, lse=False), Shape(2, 32, 32, 8192, 8192), bar, stretch)


def variant(form: str) -> Problem:
    return Problem("variant", Case(bf16, 128, form=form, lse=False), Shape(1, 16, 16, 4096, 4096), 1.0, 1.3)


def decode(batch: int, heads: int, key_heads: int, keys: int) -> Problem:
    case = Case(bf16, 128, group=heads // key_heads, lse=False)
    return Problem("decode", case, Shape(batch, heads, key_heads, 1, keys), 0.85, 0.92)


def latency(keys: int, key_heads: int = 8) -> Problem:
    case = Case(bf16, 128, group=32 // key_heads, lse=False)
    return Problem("latency", case, Shape(1, 32, key_heads, 1, keys), 1.0, 1.5)


VARIANTS = ("none", "causal", "alibi", "softcap", "documents", "window", "bias", "table", "dropped")

PROBLEMS: tuple[Problem, ...] = (
    forward(128, "causal", 450, 600),
    forward(128, "none", 520, 640),
    decode(16, 64, 8, 8192),
    decode(4, 32, 32, 8192),
    forward(64, "causal", 360, 450),
    *(latency(keys) for keys in (4096, 16384, 65536)),
    *(variant(form) for form in VARIANTS),
)
