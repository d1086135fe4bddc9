"""The CPUs that native kernels are planned for: what their vectors and caches are, by instruction set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


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
