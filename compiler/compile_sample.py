"""Attention kernels that are compiled offline to learn what tiles need: a sample, in and out of a device's reach.

The sample is the same on every machine, and any beginning of it is balanced. It holds tiles that fit a device, and as
many near its limits that do not: the planner's refusals are passed over, since what they are worth is to be found out.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any, ClassVar

from ..cost_model.dataset import CaseFields, CompileRecord
from ..cost_model.devices import Device, device_named
from ..cost_model.families import DECODE, PREFILL, Family
from ..cost_model.resources import AttentionShape, TileConfig, padded_width
from ..cost_model.schedule import Schedule
from ..ir.attributes import FloatType
from ..ir.core import Operation
from ..ir.dialects.attn import AttentionOp
from ..ir.dialects.tile import KernelOp
from ..passes.attention_shape import attention_shape
from ..passes.manager import Pass, PassContext
from ..passes.pipeline import PassPipeline
from ..passes.plan import PlanAttention
from ..passes.plan_gpu import as_scheduled
from .attention_cases import Case
from .pipelines import LOWER, schedule


@dataclass(frozen=True)
class Tiles(Pass):
    """Write these tile sizes into each planned attention's schedule, whether or not they fit the device."""

    name: ClassVar[str] = "force-tiles"
    block_m: int = 64
    block_n: int = 64
    num_warps: int = 4
    num_stages: int = 1

    def run(self, module: Operation, ctx: PassContext) -> None:
        sizes = {field.name: getattr(self, field.name) for field in fields(self)}
        for operation in module.walk():
            if (attention := AttentionOp.match(operation)) is not None:
                attention.schedule = replace(Schedule.of(attention), **sizes, reason="as asked").to_attr()
                ctx.statistics["schedules changed"] += 1


@dataclass(frozen=True)
class Configuration:
    """One kernel to compile: a problem, `rows` of a call (0: any number), the tiles, and how they are loaded."""

    target: str
    case: Case
    rows: int
    tiles: Tiles
    descriptors: str = ""

    @property
    def family(self) -> str:
        """The problem's name among families of problems."""
        case, regime = self.case, DECODE if self.rows else PREFILL
        widths = case.width, case.value_width or case.width
        return Family(case.dtype.name, *widths, case.group, regime, case.form).name

    @property
    def config(self) -> TileConfig:
        return TileConfig(self.tiles.block_m, self.tiles.block_n, self.tiles.num_warps, self.tiles.num_stages)

    @property
    def fields(self) -> CaseFields:
        """The problem as records have it."""
        case = self.case
        return CaseFields(case.dtype.name, case.width, case.value_width or case.width, case.group, case.form)

    @property
    def schedule(self) -> Schedule:
        """The schedule as records have it: what was asked for."""
        sizes = {field.name: getattr(self.tiles, field.name) for field in fields(self.tiles)}
        return Schedule(**sizes, target=self.target, descriptors=self.descriptors)

    @property
    def key(self) -> str:
        """A name that no other configuration has."""
        sizes = "x".join(str(getattr(self.tiles, field.name)) for field in fields(Tiles))
        return f"{self.target} {self.family} rows {self.rows} {sizes} {self.descriptors}".strip()

    @staticmethod
    def of(record: CompileRecord) -> Configuration:
        """The configuration that a record is about."""
        case, planned = record.case, record.schedule
        made = Case(FloatType(case.dtype), case.width, case.value_width, case.group, case.form)
        tiles = Tiles(**{field.name: getattr(planned, field.name) for field in fields(Tiles)})
        return Configuration(record.target, made, record.rows, tiles, planned.descriptors)


def scheduled(configuration: Configuration) -> tuple[Operation, AttentionOp]:
    """The module with its attention scheduled as asked; CompileError where the planner has no such kind of kernel."""
    module = configuration.case.module()
    passes: list[Pass] = []
    # The kind of a kernel is the same for all numbers of rows, of which the planner refuses what does not fit.
    rows = min(configuration.rows, FEWEST_ROWS)
    wishes: list[tuple[str, int | str]] = [("descriptors", configuration.descriptors)]
    if shape_of(configuration).skips:
        wishes.append(("lists", 1))
    for step in schedule(configuration.target, rows, tuple(wishes)):
        passes += [step, configuration.tiles] if isinstance(step, PlanAttention) else [step]
    PassPipeline(tuple(passes)).run(module, PassContext())
    return module, next(AttentionOp(op) for op in module.walk() if AttentionOp.match(op))


def lowered(configuration: Configuration) -> tuple[Operation, Schedule]:
    """The main kernel as tile IR, and its whole schedule."""
    module, attention = scheduled(configuration)
    found = replace(Schedule.of(attention), reason="")
    PassPipeline(LOWER).run(module, PassContext())
    return next(op for op in module.walk() if KernelOp.match(op)), found


def shape_of(configuration: Configuration) -> AttentionShape:
    """What the resource formulas know of a configuration."""
    kind = Schedule(16, 16, 4, 1, descriptors=configuration.descriptors, lists=1)
    return as_scheduled(_plain_shape(replace(configuration.case, group=1), configuration.rows > 0), kind)


@cache
def _plain_shape(case: Case, few_rows: bool) -> AttentionShape:
    attention = next(op for x in case.module().walk() if (op := AttentionOp.match(x)))
    return attention_shape(attention, few_rows=few_rows)


# --- which ones

WIDTHS = (32, *(64,) * 3, *(80,) * 2, *(96,) * 2, *(128,) * 3, *(192,) * 2, *(256,) * 2)
FORMS = (
    *("none",) * 3, *("causal",) * 4, *("window",) * 2, *("alibi",) * 2, *("softcap",) * 2, *("bias",) * 2,
    *("documents",) * 2, "table", "dropped",
)  # fmt: skip
FEWEST_ROWS = 16
ROWS = (0, 0, 0, 0, 0, 0, 0, 16, 32, 64)
BLOCKS_M, BLOCKS_N = (16, 32, 64, 64, 128, 128, 256), (16, 32, 32, 64, 64, 128, 128, 256)
STAGES = (1, 2, 2, 3, 3, 4, 5)
DTYPES: Mapping[bool, tuple[str, ...]] = {
    False: (*("f16",) * 5, *("bf16",) * 2, *("f32",) * 3),
    True: (*("f16",) * 5, *("bf16",) * 2, *("f32",) * 3, "f8E4M3FN"),
}
LOADS: Mapping[bool, tuple[str, ...]] = {False: ("",), True: ("device", "device", "host", "")}
ROUGH_REGISTERS, ROUGH_FMA, ROUGH_ELEMENTS = 170, 256, 4096
"""Registers and multiply-adds a thread, and elements of a key tile without tensor cores, about which kernels spill."""

FAR_BELOW, NEAR, FAR = 0.3, 1.6, 2.5
"""Parts of what a device has: most kernels of a sample need between the first two, and few more than the last."""


class Decks:
    """Draws from each list without replacement, and shuffles it anew when it is used up."""

    def __init__(self, seed: str) -> None:
        self.random = random.Random(seed)
        self.left: dict[tuple[Any, ...], list[Any]] = {}

    def draw(self, name: str, values: Sequence[Any]) -> Any:
        left = self.left.setdefault((name, *values), [])
        if not left:
            left += values
            self.random.shuffle(left)
        return left.pop()


def configurations(target: str, seed: int = 0) -> Iterator[Configuration]:
    """The sample for a device, without end."""
    device, decks, seen = device_named(target), Decks(f"{target} {seed}"), set[Configuration]()
    while True:
        found = _drawn(decks, device)
        part = pressure(found, device)
        chance = 0.35 if part < FAR_BELOW else 1.0 if part < NEAR else 0.3 if part < FAR else 0.03
        if found not in seen and decks.random.random() < chance:
            seen.add(found)
            yield found


def _drawn(decks: Decks, device: Device) -> Configuration:
    rows: int = decks.draw("rows", ROWS)
    width: int = decks.draw("width", WIDTHS)
    value_width: int = decks.draw("value width", (width,) * 8 + (64, 128))
    dtype = FloatType(decks.draw("dtype", DTYPES["f8" in device.elements]))
    group: int = decks.draw("group of rows", (1, 4, 8)) if rows else decks.draw("group", (1, 1, 4))
    case = Case(dtype, width, value_width, group, decks.draw("form", FORMS))
    block_m = padded_width(rows) if rows else decks.draw("block_m", BLOCKS_M)
    sizes = decks.draw("block_n", BLOCKS_N), decks.draw("warps", (4, 4, 8)), decks.draw("stages", STAGES)
    return Configuration(device.name, case, rows, Tiles(block_m, *sizes), decks.draw("loads", LOADS[device.has_tma]))


def pressure(configuration: Configuration, device: Device) -> float:
    """The part of what a device has that a kernel is thought to need, of what it has least of.

    A rough formula, which stays as it is when those of the planner change, so that the sample does too.
    """
    case, tiles = configuration.case, configuration.tiles
    width, bytes_, threads = max(case.width, case.value_width or 0), case.dtype.width // 8, 32 * tiles.num_warps
    scores = tiles.block_m * tiles.block_n
    loaded = 4 * scores * (case.form == "bias")
    tile = tiles.block_n * 2 * width * bytes_ + loaded
    memory = tiles.block_m * width * bytes_ + max(1, tiles.num_stages - (not device.has_tma)) * tile
    parts = [memory / device.shared_memory, (tiles.block_m * width + 1.5 * scores) / threads / ROUGH_REGISTERS]
    if bytes_ > 2:
        parts += [scores * width / threads / ROUGH_FMA, tiles.block_n * width / ROUGH_ELEMENTS]
    return max(parts)
