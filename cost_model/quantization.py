"""How long attention takes on numbers in few bits, and what it costs to bring q, k and v into them in every call.

Ranks precisions of one site against exact attention and against each other; which tiles a kernel has is not asked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..ir.storage import Storage
from .cpus import CPUS, Cpu
from .devices import DEVICES, INTERPRETER, Device

STAND_IN = "sm_90"
"""What predictions are for where kernels are interpreted, which has no speed worth a prediction."""

ROWS = 64
"""Rows of queries for which a tile of codes is turned into numbers once."""

CPU_CLOCK = 4e9
"""Cycles a second; no CPU is told from another by it, since shares do not depend on it."""

CPU_EFFICIENCY = 0.9
"""The part of the peak of multiply-adds that whole kernels reach."""

EXPONENTIAL_INSTRUCTIONS = 20.0
"""Instructions for a vector of scores on a CPU: the polynomial of the exponential, the maximum, the sum."""

CONVERSIONS: Mapping[str, float] = {"whole": 1.0, "packed": 2.0, "float": 6.0}
"""Instructions that turn a vector of codes into numbers on a CPU: bytes, codes that share a byte, 8-bit floats."""

CPU_NANOSECONDS: Mapping[str, float] = {"whole": 0.75, "packed": 1.5, "float": 2.4}
"""For a number that is brought into few bits by one thread, in long tensors; measured on an EPYC 9005, PyTorch 2.13."""

CPU_OVERHEAD, GPU_OVERHEAD = 6e-5, 4e-5
"""Seconds of one operation on almost nothing: measured on the CPU; 8 launches on the GPU."""

GPU_BYTES: Mapping[str, float] = {"whole": 40.0, "packed": 60.0, "float": 40.0}
"""Bytes that the steps of bringing a number into few bits move through device memory."""

MEAN, MEAN_OVERHEAD = 0.5, 0.1
"""Taking the mean away, beside bringing a tensor into bytes: of its time for a number, and of its overhead."""


@dataclass(frozen=True)
class Work:
    """One call: `heads` of all batches with `key_heads` of keys, widths in numbers, bytes of an element of the model's.

    `live` is the part of the scores that the mask leaves.
    """

    heads: int
    key_heads: int
    queries: int
    keys: int
    width: int
    value_width: int
    element_bytes: int
    live: float = 1.0


@dataclass(frozen=True)
class Precision:
    """What q, k and v are kept in, None for the model's own type; and what is done to them before.

    `smooth` takes their mean from the keys. `rotated` counts multiply-adds: for each number of q and of k, and of v
    and out where `rotates_values`, their width each.
    """

    query: Storage | None = None
    key: Storage | None = None
    value: Storage | None = None
    smooth: bool = False
    rotated: bool = False
    rotates_values: bool = False


EXACT = Precision()


@dataclass(frozen=True)
class Rates:
    """What a whole device does in a second.

    `products` are multiply-adds by the type of both factors, `conversions` codes that become numbers, `quantizing` is
    for numbers that are brought into few bits, both by kind ("whole" bytes, "packed", "float"). `overhead` is the
    seconds of one such operation.
    """

    products: Mapping[str, float]
    exponentials: float
    conversions: Mapping[str, float]
    quantizing: Mapping[str, float]
    bandwidth: float
    overhead: float

    def product(self, kind: str) -> float:
        """Of codes without a product of their own: what they become first decides."""
        return self.products.get(kind, 0.0)


def rates_of(target: str, threads: int = 1, *, integer_dots: bool = True) -> Rates:
    """Of a GPU, or of `threads` cores of a CPU; `integer_dots` says that it has products of bytes (VNNI)."""
    if target in CPUS:
        return _cpu_rates(CPUS[target], threads, integer_dots)
    return _gpu_rates(DEVICES[device_for(target)])


def device_for(target: str) -> str:
    """The device that predictions for a target are about."""
    return STAND_IN if target == INTERPRETER else target


def _cpu_rates(cpu: Cpu, threads: int, integer_dots: bool) -> Rates:
    vectors = cpu.fma_units * CPU_CLOCK * threads
    floats = vectors * cpu.lanes * CPU_EFFICIENCY
    # A product of bytes takes four of them to a lane.
    products = {"f32": floats, "f16": floats} | ({"i8": 4 * floats} if integer_dots else {})
    return Rates(
        products,
        vectors * cpu.lanes / EXPONENTIAL_INSTRUCTIONS,
        {kind: vectors * cpu.lanes / count for kind, count in CONVERSIONS.items()},
        {kind: threads * 1e9 / time for kind, time in CPU_NANOSECONDS.items()},
        cpu.far_bandwidth * CPU_CLOCK * threads,
        CPU_OVERHEAD,
    )


def _gpu_rates(device: Device) -> Rates:
    cycles = device.multiprocessors * device.clock
    half = device.tensor_flops / 2 * cycles
    products = {"f16": half, "f32": device.vector_flops / 2 * cycles, "i8": 2 * half}
    if "f8" in device.elements:
        products["f8"] = 2 * half
    numbers = device.issue * device.warp_size * cycles
    return Rates(
        products,
        device.exponentials * cycles,
        {"whole": numbers / 2, "packed": numbers / 3, "float": numbers / 2},
        {kind: device.bandwidth / moved for kind, moved in GPU_BYTES.items()},
        device.bandwidth,
        GPU_OVERHEAD,
    )


def predicted_seconds(work: Work, precision: Precision, rates: Rates) -> float:
    """Of one call: bringing q, k and v into few bits, and the kernel on them."""
    return preparation_seconds(work, precision, rates) + kernel_seconds(work, precision, rates)


def kernel_seconds(work: Work, precision: Precision, rates: Rates) -> float:
    """Arithmetic or memory, whichever takes longer."""
    scores = work.heads * work.queries * work.keys * work.live
    own = "f16" if work.element_bytes <= 2 else "f32"
    scored, weighed = _score_product(precision, rates) or own, _value_product(precision, rates) or own
    busy = scores * work.width / rates.product(scored) + scores * work.value_width / rates.product(weighed)
    busy += scores / rates.exponentials
    blocks = math.ceil(work.queries * work.heads / work.key_heads / ROWS) if work.key_heads else 0
    for storage, width, native in ((precision.key, work.width, scored), (precision.value, work.value_width, weighed)):
        if storage is not None and native == own:
            numbers = work.key_heads * work.keys * work.live * width * blocks
            busy += numbers / rates.conversions[_kind(storage)]
    return max(busy, _bytes(work, precision) / rates.bandwidth)


def preparation_seconds(work: Work, precision: Precision, rates: Rates) -> float:
    """What PyTorch does in every call before the kernel, and behind it."""
    queries, keys = work.heads * work.queries * work.width, work.key_heads * work.keys * work.width
    values, out = work.key_heads * work.keys * work.value_width, work.heads * work.queries * work.value_width
    seconds = 0.0
    for storage, numbers in ((precision.query, queries), (precision.key, keys), (precision.value, values)):
        if storage is not None:
            seconds += numbers / rates.quantizing[_kind(storage)] + rates.overhead
    if precision.smooth:
        seconds += MEAN * keys / rates.quantizing["whole"] + MEAN_OVERHEAD * rates.overhead
    own = rates.product("f16" if work.element_bytes <= 2 else "f32")
    if precision.rotated:
        seconds += (queries + keys) * work.width / own
    if precision.rotates_values:
        seconds += (values + out) * work.value_width / own
    return seconds


def _score_product(precision: Precision, rates: Rates) -> str:
    """The type in which codes of queries and keys are multiplied as they are; none where they become numbers first."""
    query, key = precision.query, precision.key
    if query is None or key is None or query.kind != key.kind:
        return ""
    return _native(key, rates) if _native(query, rates) else ""


def _value_product(precision: Precision, rates: Rates) -> str:
    """The same for weights and values: weights become floats of the values' type."""
    found = _native(precision.value, rates) if precision.value is not None else ""
    return found if found == "f8" else ""


def _native(storage: Storage, rates: Rates) -> str:
    if storage.channels or storage.zero or storage.packed:
        return ""
    kind = {"int": "i8" if storage.signed else "", "f8E4M3FN": "f8", "f8E5M2": "f8"}.get(storage.kind, "")
    return kind if kind in rates.products else ""


def _kind(storage: Storage) -> str:
    if storage.kind != "int":
        return "float"
    return "packed" if storage.packed else "whole"


def _bytes(work: Work, precision: Precision) -> float:
    """What a kernel reads and writes of device memory, once."""

    def of(storage: Storage | None, tokens: int, heads: int, width: int) -> float:
        if storage is None:
            return float(tokens) * heads * width * work.element_bytes
        return float(replace(storage, width=width).bytes(tokens, heads))

    return (
        of(precision.query, work.queries, work.heads, work.width)
        + of(precision.key, work.keys, work.key_heads, work.width)
        + of(precision.value, work.keys, work.key_heads, work.value_width)
        + of(None, work.queries, work.heads, work.value_width)
    )
