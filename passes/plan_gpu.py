"""Chooses the schedule of one attention on a GPU: all tile sizes that fit it, ranked by a roofline estimate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from typing import Any, NoReturn

from ..cost_model.devices import Device
from ..cost_model.resources import (
    LEAST_WIDTH_8_BITS,
    AttentionShape,
    TileConfig,
    as_scheduled,
    occupancy,
    padded_width,
    refusal,
    register_demand,
    shared_memory,
)
from ..cost_model.roofline import cycles_per_key, cycles_per_score, tile_cycles, wanted_stages
from ..cost_model.schedule import AS_MANY_AS_FIT, Schedule, warps_of
from ..ir.diagnostics import error, op_error
from ..ir.dialects.attn import AttentionOp
from ..ir.dialects.tile import DESCRIPTORS
from ..ir.storage import BYTE
from .known_orders import KnownOrder
from .mask_plan import MaskPlan
from .position_forms import M, N
from .specialise import cannot_specialise
from .stored_tiles import StoredOperands, lies_as_read, values_by_column
from .tile_tables import mask_plan

CLOSE = 0.02
"""Estimates that differ by less, relatively, say nothing about which is faster."""

HOPELESS = 3.0
"""Times the cycles of the best tiles for a score, from which on tiles are not worth ranking."""

BLOCK_M, BLOCK_N, WARPS = (16, 32, 64, 128), (16, 32, 64, 128), (4, 8)
DECODE_STAGES = 4
ONLY_MANY_ROWS = ("block_m", "persistent", "specialised")
"""Wishes that say nothing of kernels for few rows."""
TILE_FIELDS = ("block_m", "block_n", "num_warps", "num_stages")
SPECIALISED_TILE = TileConfig(128, 128, 4, 2)
"""What Triton's warp specialisation takes: four warps that load, and twice as many more for 128 rows."""

BULK_BYTES = 16
"""Tensor descriptors need rows of a multiple of these."""

INTERPRETED = Schedule(
    64, 64, 4, 1, reason="64x64 tiles: in the interpreter a step costs the same whatever its size"
)  # fmt: skip
PRETENDED_PROGRAMS = 3
"""How many programs a persistent kernel has in the interpreter."""

Wish = tuple[str, int | str]

CANNOT_UNPACK: Mapping[str, str] = {"specialised": "specialised warps", "swap": "swapped operands"}
"""Wishes for kernels that read all tiles as they lie in memory, in words."""

LEAST_BLOCK = 64
"""Rows or keys of a table's blocks from which on tiles lie inside them; shorter tiles would leave tensor cores idle."""


@dataclass(frozen=True)
class GpuPlanner:
    """Plans one attention for `device`, None for the interpreter.

    `rows` are pairs of a query and a head of its group that a call brings, as in decoding, 0 for any
    number. `wishes` are fields of the schedule, with values, that must be followed.
    """

    attention: AttentionOp
    shape: AttentionShape
    device: Device | None
    rows: int = 0
    wishes: tuple[Wish, ...] = ()

    def schedule(self) -> Schedule:
        """Raises CompileError where no tiles fit, or where a wish cannot be followed."""
        wanted = self._wanted()
        base = replace(INTERPRETED if self.device is None else Schedule(0, 0, 0, 0), **self._kind(wanted))
        if self.device is None:
            rows = {"block_m": self._block_m()} if self.rows else {}
            programs = {"persistent": PRETENDED_PROGRAMS} if wanted.get("persistent") == AS_MANY_AS_FIT else {}
            return replace(base, **{**rows, **wanted, **programs})
        self._stored.check(self.attention, self.device)
        shape = as_scheduled(self.shape, base)
        config, reason = self._tiles(self.device, shape, base, wanted)
        return self._with_tiles(base, shape, config, wanted, reason)

    @property
    def _stored(self) -> StoredOperands:
        return StoredOperands.of(self.attention)

    def _wanted(self) -> dict[str, Any]:
        """The wishes, refused where they name nothing or ask for what cannot be."""
        known = [f.name for f in fields(Schedule) if f.name not in ("lanes", "columns", "edge_n", "target", "reason")]
        for name, _ in self.wishes:
            if name not in known:
                raise error(f"a kernel for a GPU has no option '{name}'; expected {', '.join(known)}")
        wanted: dict[str, Any] = dict(self.wishes)
        if self.rows:
            wanted = {name: value for name, value in wanted.items() if name not in ONLY_MANY_ROWS}
        if wanted.get("descriptors") == "":
            # Tensors that no descriptor can stand for: specialised warps could not copy tiles of them either.
            wanted.pop("specialised", None)
        made_by = wanted.get("descriptors", "")
        if made_by not in ("", *DESCRIPTORS):
            raise error(f"descriptors must be host or device, or empty for pointers, but is {made_by!r}")
        if made_by and (reason := self._no_descriptors()):
            op_error(self.attention.operation, f"cannot be loaded through tensor descriptors: {reason}")
        if wanted.get("specialised") and self.device is not None and not self.device.specialises:
            op_error(
                self.attention.operation, f"cannot have specialised warps: Triton makes none for {self.device.name}"
            )
        for wish, what in CANNOT_UNPACK.items():
            if wanted.get(wish) and (stored := self._stored.in_words):
                op_error(
                    self.attention.operation, f"cannot have {what}: {stored}, of which only other kernels read codes"
                )
        if wanted.get("specialised") and (reason := cannot_specialise(self.attention) or self._no_descriptors()):
            op_error(self.attention.operation, f"cannot have specialised warps: {reason}")
        if wanted.get("specialised") and wanted.get("swap"):
            op_error(
                self.attention.operation, "cannot have specialised warps and swapped operands: registers would spill"
            )
        return wanted

    def _kind(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """All but the tile sizes."""
        found: dict[str, Any] = {"target": self.device.name if self.device is not None else "interpret"}
        if self.rows:
            found |= {"folded": 1, "split": 1}
        if self.device is not None and self.device.has_tma and not self._no_descriptors():
            # What a program prepares for itself pays over a long row of keys, and leaves shorter loops; a program
            # that stays would prepare it for each tile, and keep it in registers that spill.
            found["descriptors"] = "host" if self.rows or wanted.get("persistent") else "device"
        plan = MaskPlan.of(self.attention.mask) if not self.attention.mask.empty else None
        if plan is not None and plan.kind == "tiles":
            found["lists"] = 1
        if values_by_column(self.attention):
            # Tensor cores take 8-bit values only as columns; transposing each tile would cost more than they save.
            found["by_column"] = 1
        if wanted.get("specialised"):
            found |= {"descriptors": "device", "lists": 0}
        given = {name: value for name, value in wanted.items() if name not in (*TILE_FIELDS, "persistent")}
        return {**found, **given}

    def _no_descriptors(self) -> str:
        """Why keys and values cannot be read through descriptors; empty where they can."""
        if self.device is not None and not self.device.has_tma:
            return f"{self.device.name} has no unit that copies tiles"
        stored = {"key": self._stored.key, "value": self._stored.value}
        if any(storage is None and not self.attention.region(name).empty for name, storage in stored.items()):
            return "regions change the rows of keys or values"
        for (name, storage), type_ in zip(stored.items(), self.attention.shapes[1:], strict=True):
            if storage is not None and not lies_as_read(storage):
                return f"'{name}' is stored as {storage}, whose bytes are read through pointers"
            width, bytes_ = type_.shape[3], self.shape.element_bytes
            bytes_ = bytes_ if storage is None else storage.element_bits // BYTE
            size = width * bytes_ if isinstance(width, int) else 0
            name = name[0]
            if size % BULK_BYTES:
                return f"rows of {name} have {size} bytes, of which {BULK_BYTES} are no divisor"
        return ""

    # --- tiles

    def _block_m(self) -> int:
        """Rows of a tile that holds all rows of a call."""
        return padded_width(self.rows)

    def candidates(self) -> list[Schedule]:
        """Every complete schedule that fits; the first error where none does."""
        if self.device is None:
            return [self.schedule()]
        wanted = self._wanted()
        base = replace(Schedule(0, 0, 0, 0), **self._kind(wanted))
        self._stored.check(self.attention, self.device)
        variants = self._variants(base, wanted)
        found: list[Schedule] = []
        # Where what was learned lets nothing pass, the formula's word must do.
        for learned in (True, False):
            found = found or [s for x in variants for s in self._complete(x, wanted, self.device, learned)]
        if not found:
            shape = as_scheduled(self.shape, variants[0])
            self._refuse(self._considered(self.device, shape, variants[0], wanted)[0], shape, self.device)
        return found

    def _complete(self, options: Schedule, wanted: Mapping[str, Any], device: Device, learned: bool) -> list[Schedule]:
        """The schedules with `options` whose tiles fit."""
        shape = as_scheduled(self.shape, options)
        considered = self._considered(device, shape, options, wanted)
        fitting = _fitting(considered, shape, device, learned)
        if not (self.rows or options.specialised):
            fitting = _hopeful(fitting, shape, device)
        reason = f"of {len(fitting)} tile sizes that fit, of {len(considered)}"
        return [self._with_tiles(options, shape, config, wanted, reason) for config in fitting]

    def problem(self, schedule: Schedule) -> str:
        """Why a complete schedule does not fit; empty where it does, even if other tiles are much faster.

        CompileError where none can fit.
        """
        if self.device is None:
            return "" if replace(self.schedule(), reason="") == replace(schedule, reason="") else "it is another one"
        wanted = self._wanted()
        base = replace(Schedule(0, 0, 0, 0), **self._kind(wanted))
        self._stored.check(self.attention, self.device)
        options = replace(schedule, block_m=0, block_n=0, num_warps=0, num_stages=0, persistent=0, reason="")
        if options not in self._variants(base, wanted):
            return "it is none of the candidates that fit"
        config = TileConfig(schedule.block_m, schedule.block_n, schedule.num_warps, schedule.num_stages)
        shape = as_scheduled(self.shape, options)
        if config not in self._considered(self.device, shape, options, wanted):
            return "it is none of the candidates that fit"
        if schedule.persistent != self._programs(wanted, shape, config):
            return f"persistent={schedule.persistent} is not what fits"
        refused = refusal(config, shape, self.device)
        if refused and refusal(config, shape, self.device, learned=False) is None:
            # Taken only where nothing passes what was learned.
            same = replace(schedule, reason="") in [replace(s, reason="") for s in self.candidates()]
            return "" if same else refused
        return refused or ""

    def _variants(self, base: Schedule, wanted: Mapping[str, Any]) -> list[Schedule]:
        """The usual options, then those that differ in what nobody asked for: loads and lists.

        Whether keys are split is no choice: one kernel takes as many parts as a call's sizes ask for.
        """
        others: dict[str, list[Any]] = {}
        if base.specialised:
            return [base]
        if base.descriptors and "descriptors" not in wanted:
            others["descriptors"] = [base.descriptors, ""]
        if "lists" not in wanted and (plan := mask_plan(self.attention)) is not None and plan.kind == "tiles":
            others["lists"] = [1, 0]
        return [replace(base, **dict(zip(others, values, strict=True))) for values in product(*others.values())]

    def _with_tiles(
        self, base: Schedule, shape: AttentionShape, config: TileConfig, wanted: Mapping[str, Any], reason: str
    ) -> Schedule:
        tiles = dict(zip(TILE_FIELDS, (config.block_m, config.block_n, config.warps, config.stages), strict=True))
        return replace(base, **tiles, persistent=self._programs(wanted, shape, config), reason=reason)

    def _considered(
        self, device: Device, shape: AttentionShape, base: Schedule, wanted: Mapping[str, Any]
    ) -> list[TileConfig]:
        """The tiles worth a look, whether or not they fit."""
        if base.specialised:
            considered: list[TileConfig] = [replace(SPECIALISED_TILE, block_n=n) for n in (128, 64, 32)]
        elif self.rows:
            considered = list(decode_candidates(self._block_m(), shape))
        else:
            considered = list(candidates(device, shape))
        if shape.element_bytes == 1 and "f8" not in device.elements:
            op_error(self.attention.operation, f"{device.name} has no tensor cores for 8-bit floats of IEEE's kind")
        considered = [config for config in considered if shape.suits(config.block_n)] or considered
        if values_by_column(self.attention):
            considered = [config for config in considered if config.block_n >= LEAST_WIDTH_8_BITS]
        return _as_wished(self._inside_blocks(considered), wanted)

    def _refuse(self, smallest: TileConfig, shape: AttentionShape, device: Device) -> NoReturn:
        op_error(
            self.attention.operation,
            f"no tile sizes fit {device.name}: head dimensions {shape.key_width} and {shape.value_width} of "
            f"{shape.element_bytes} bytes need, even in tiles of {smallest.block_m}x{smallest.block_n}, "
            f"{refusal(smallest, shape, device)}",
        )

    def _tiles(
        self, device: Device, shape: AttentionShape, base: Schedule, wanted: Mapping[str, Any]
    ) -> tuple[TileConfig, str]:
        """The best tiles that fit, and why."""
        considered = self._considered(device, shape, base, wanted)
        fitting = _fitting(considered, shape, device) or _fitting(considered, shape, device, learned=False)
        if not fitting:
            self._refuse(considered[0], shape, device)
        if base.specialised:
            best = fitting[0]
        elif self.rows:
            best = min(fitting, key=lambda config: (cycles_per_key(config, shape, device), config.block_n))
        else:
            best = _best(fitting, shape, device, live_tiles(self.attention))
        return best, f"{explain(best, shape, device)}; best of {len(fitting)} that fit, of {len(considered)}"

    def _inside_blocks(self, considered: list[TileConfig]) -> list[TileConfig]:
        """Tiles that lie inside the blocks of a captured table, so that none is cut, unless the blocks are small."""
        if self.attention.mask.empty:
            return considered
        from .live_keys import keys_of_blocks

        plan = MaskPlan.of(self.attention.mask)
        rows, keys = (keys_of_blocks(plan, position) for position in (M, N))

        def inside(config: TileConfig) -> bool:
            high = self.rows or rows < LEAST_BLOCK or rows % config.block_m == 0
            return bool(high) and (keys < LEAST_BLOCK or keys % config.block_n == 0)

        return [config for config in considered if inside(config)] or considered

    def _programs(self, wanted: Mapping[str, Any], shape: AttentionShape, config: TileConfig) -> int:
        """How many programs a persistent kernel has: as many as are resident at once, or as wished."""
        asked = wanted.get("persistent", 0)
        if asked == AS_MANY_AS_FIT and self.device is not None:
            return self.device.multiprocessors * occupancy(config, shape, self.device)
        return int(asked)


def gpu_candidates(
    attention: AttentionOp, shape: AttentionShape, device: Device, rows: int = 0, wishes: tuple[Wish, ...] = ()
) -> list[Schedule]:
    """Every complete schedule that fits `device`, in no order; CompileError where there is none.

    `shape`, `rows` and `wishes` are as for `GpuPlanner`; what the wishes leave open varies.
    """
    return GpuPlanner(attention, shape, device, rows, wishes).candidates()


def _fitting(
    considered: Sequence[TileConfig], shape: AttentionShape, device: Device, learned: bool = True
) -> list[TileConfig]:
    return [config for config in considered if refusal(config, shape, device, learned=learned) is None]


def _hopeful(fitting: Sequence[TileConfig], shape: AttentionShape, device: Device) -> list[TileConfig]:
    """Without the tiles of which no mask and no length makes the fastest."""
    cycles = {config: cycles_per_score(config, shape, device) for config in fitting}
    limit = HOPELESS * min(cycles.values(), default=0.0)
    return [config for config in fitting if cycles[config] <= limit]


def _as_wished(considered: Sequence[TileConfig], wanted: Mapping[str, Any]) -> list[TileConfig]:
    """The candidates with the tile sizes that are asked for; what no candidate has is tried all the same."""
    names = dict(zip(TILE_FIELDS, ("block_m", "block_n", "warps", "stages"), strict=True))
    asked = {names[name]: int(value) for name, value in wanted.items() if name in names}
    return list(dict.fromkeys(replace(config, **asked) for config in considered))


def candidates(device: Device, shape: AttentionShape) -> Iterator[TileConfig]:
    """Every tile size worth a look, whether or not it fits."""
    for block_m, block_n, warps in product(BLOCK_M, BLOCK_N, WARPS):
        fewest = 4 if not device.has_tma else warps_of(block_m)
        if shape.tensor_cores and not fewest <= warps <= warps_of(block_m):
            continue
        for stages in range(1, wanted_stages(TileConfig(block_m, block_n, warps, 1), shape, device) + 1):
            yield TileConfig(block_m, block_n, warps, stages)


def decode_candidates(block_m: int, shape: AttentionShape) -> Iterator[TileConfig]:
    """Tiles of all rows of a call; more stages than elsewhere, since nothing but the loads takes time."""
    for block_n, stages in product(BLOCK_N, range(1, DECODE_STAGES + 1)):
        yield TileConfig(block_m, block_n, warps_of(block_m) if shape.tensor_cores else 4, stages)


def live_tiles(attention: AttentionOp) -> Callable[[TileConfig], float]:
    """The part of all key tiles that a mask without simple bounds leaves, as far as its sizes are known."""
    from .mask_trials import live_part

    queries, keys = (type_.shape[2] for type_ in attention.shapes[:2])
    known = KnownOrder.of(attention)
    if known is not None:
        queries, keys = known.queries, known.keys
    plan = MaskPlan.of(attention.mask)
    if plan.kind not in ("pieces", "tiles") or not (isinstance(queries, int) and isinstance(keys, int)):
        return lambda config: 1.0
    captures = None if known is None else known.captures(attention, queries, keys)
    parts: dict[tuple[int, int], float] = {}

    def part(config: TileConfig) -> float:
        block = config.block_m, config.block_n
        if block not in parts:
            parts[block] = live_part(plan.forms, queries, keys, *block, captures)
        return parts[block]

    return part


def _best(
    fitting: Sequence[TileConfig], shape: AttentionShape, device: Device, live: Callable[[TileConfig], float]
) -> TileConfig:
    """The fastest by the estimate; among those as good as equal, the one that reads keys least often."""
    cycles = {config: cycles_per_score(config, shape, device) * live(config) for config in fitting}
    limit = min(cycles.values()) * (1 + CLOSE)
    return max(fitting, key=lambda config: (cycles[config] <= limit, config.block_m, -cycles[config]))


def explain(config: TileConfig, shape: AttentionShape, device: Device) -> str:
    """The estimate behind a choice, in words."""
    cycles = tile_cycles(config, shape, device)
    return (
        f"{config.block_m}x{config.block_n} tiles of {cycles.total:.0f} cycles (dots {cycles.dots:.0f}, "
        f"exponentials {cycles.exponentials:.0f}, issue {cycles.issue:.0f}, L2 {cycles.l2:.0f}), "
        f"{shared_memory(config, shape, device)} bytes of shared memory, "
        f"{register_demand(config, shape, device):.0f} registers a thread for tiles"
    )
