"""The CPUs that native kernels are planned for: their vectors and caches by instruction set, and how fast they are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache


@dataclass(frozen=True)
class Cpu:
    """One target: not a model, but what every core with an instruction set has at least.

    `lanes` is how many f32 a vector holds, `vector_registers` how many vectors a core can name,
    `l1_bytes` and `l2_bytes` the data caches of one core. In one cycle it starts `fma_units`
    multiply-adds of whole vectors, which take `fma_latency` cycles each, and `load_ports` loads;
    `l2_bandwidth` and `far_bandwidth` are the bytes it reads from L2 and from beyond.
    """

    name: str
    lanes: int
    vector_registers: int
    l1_bytes: int
    l2_bytes: int
    fma_units: int
    fma_latency: int
    load_ports: int
    l2_bandwidth: float
    far_bandwidth: float


_AVX512 = Cpu(
    # Intel's and AMD's optimisation manuals: Skylake-SP to Cascade Lake have 32 KiB of L1 and 1 MiB of L2 a core,
    # Ice Lake-SP and Sapphire Rapids 48 KiB and 1.25 to 2 MiB, Zen 4 and 5 32 to 48 KiB and 1 MiB; two 512-bit FMAs a
    # cycle on the server parts, of 4 cycles. L2 64 bytes a cycle at best, about half of that for long.
    name="avx512", lanes=16, vector_registers=32, l1_bytes=32 << 10, l2_bytes=1 << 20,
    fma_units=2, fma_latency=4, load_ports=2, l2_bandwidth=32, far_bandwidth=16,
)  # fmt: skip

_AVX2 = Cpu(
    # Haswell has 32 KiB of L1, 256 KiB of L2 and FMAs of 5 cycles; all later cores with AVX2 have more or are faster.
    name="avx2", lanes=8, vector_registers=16, l1_bytes=32 << 10, l2_bytes=256 << 10,
    fma_units=2, fma_latency=5, load_ports=2, l2_bandwidth=24, far_bandwidth=8,
)  # fmt: skip

CPUS: Mapping[str, Cpu] = {cpu.name: cpu for cpu in (_AVX512, _AVX2)}


@dataclass(frozen=True)
class Level:
    """One level of the memory of a core: how many bytes it holds, and how many one core reads or copies a second."""

    bytes: float
    read: float
    copy: float


@dataclass(frozen=True)
class CpuRates:
    """How fast one core does what kernels consist of, as `attir doctor --calibrate` measures it.

    In one cycle of `clock` Hz it starts `fma` multiply-adds of whole vectors, which take `latency` cycles each, and
    `loads` loads. `levels` are L1, L2, L3 and memory. `exponentials` numbers a second go through the softmax of f32,
    `widened_f16` and `widened_bf16` are read, made f32 and stored. To start a program takes `program` seconds, to wake
    a thread `thread`, and a call from Python `call`, of one kernel. A call runs on up to `threads` cores.
    """

    name: str
    clock: float
    fma: float
    latency: float
    loads: float
    levels: tuple[Level, Level, Level, Level]
    exponentials: float
    widened_f16: float
    widened_bf16: float
    program: float
    thread: float
    call: float
    threads: int = 4

    @property
    def flops(self) -> float:
        """Of one core, at most; a multiply-add counts twice."""
        return 2 * CPUS[self.name].lanes * self.fma * self.clock


_RATES_AVX512 = CpuRates(
    # What `attir doctor --calibrate` found on a Zen 5 (EPYC).
    name="avx512", clock=3.73e9, fma=2, latency=4, loads=2,
    levels=(
        Level(48 << 10, 4.05e11, 2.2e11), Level(1 << 20, 2.27e11, 1.13e11), Level(32 << 20, 7.4e10, 3.9e10),
        Level(math.inf, 3.05e10, 1.6e10),
    ),
    exponentials=1.09e10, widened_f16=5.9e10, widened_bf16=5.6e10, program=5e-9, thread=5e-6, call=5e-6,
)  # fmt: skip

_RATES_AVX2 = CpuRates(
    # The same core with vectors half as long.
    name="avx2", clock=3.73e9, fma=2, latency=4, loads=2,
    levels=(
        Level(48 << 10, 2.27e11, 2.2e11), Level(1 << 20, 1.9e11, 1.13e11), Level(32 << 20, 7.4e10, 3.9e10),
        Level(math.inf, 3.05e10, 1.6e10),
    ),
    exponentials=5.5e9, widened_f16=4.6e10, widened_bf16=4.0e10, program=5e-9, thread=5e-6, call=5e-6,
)  # fmt: skip

DEFAULT_RATES: Mapping[str, CpuRates] = {rates.name: rates for rates in (_RATES_AVX512, _RATES_AVX2)}
"""What is taken of CPUs that were not calibrated."""

_calibrated: dict[str, CpuRates] = {}


def rates_for(name: str, threads: int | None = None) -> CpuRates:
    """The rates of the CPU called `name`: those that were set, else the default; for so many `threads` if given."""
    rates = _calibrated.get(name) or DEFAULT_RATES[name]
    return rates if threads is None else _on_threads(rates, threads)


@lru_cache(maxsize=64)
def _on_threads(rates: CpuRates, threads: int) -> CpuRates:
    return replace(rates, threads=threads)


def set_rates(name: str, rates: CpuRates | None) -> None:
    """Take `rates` for the CPU called `name` from now on; None goes back to the default."""
    if rates is None:
        _calibrated.pop(name, None)
    else:
        _calibrated[name] = rates
