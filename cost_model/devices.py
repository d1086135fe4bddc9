"""The devices that kernels are planned for, as data sheets and microbenchmarks describe them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..ir.diagnostics import error
from .cpus import CPUS


@dataclass(frozen=True)
class Device:
    """One target; rates are per multiprocessor and clock cycle unless they say otherwise.

    `shared_memory` is the most one program may use, `shared_memory_total` what all programs on a
    multiprocessor share (each also costs 1 KiB of the driver's), both in bytes. `registers` counts
    the 32-bit ones of a multiprocessor, `max_registers` those one thread may hold. `tensor_flops`
    is for dense f16 and bf16 (a multiply-add counts twice), `vector_flops` for f32 outside tensor
    cores, `exponentials` counts special-function results, `issue` instructions of one warp each.
    `l2_bytes` is what one multiprocessor sustains from the L2 cache. `bandwidth` is of device
    memory, in bytes a second, `clock` in Hz. `operands_in_registers` says that tensor cores read both
    factors of a dot from registers, not from shared memory. `tile_registers` is how many registers a
    thread its tiles may ask for (`resources.register_demand`) before the compiler spills in a loop,
    found by compiling pointer kernels; `bulk_tile_registers` is the same where keys and values come
    through tensor descriptors. `elements` are what tensor cores take: f8 are 8-bit floats as PyTorch has them,
    i8 signed bytes. `specialises` says that Triton makes warps that only load there, without spilling others.
    `memory` are the bytes of device memory, `l2_size` those of the last cache before it. `pcie` is what a link to
    the host carries one way, in bytes a second; `launch` the seconds from one kernel's end to the next one's start.
    """

    name: str
    marketing_name: str
    shared_memory: int
    shared_memory_total: int
    registers: int
    max_registers: int
    warp_size: int
    max_warps: int
    multiprocessors: int
    has_tma: bool
    operands_in_registers: bool
    tile_registers: float
    bulk_tile_registers: float
    clock: float
    tensor_flops: float
    vector_flops: float
    exponentials: float
    issue: float
    l2_bytes: float
    bandwidth: float
    elements: tuple[str, ...] = ("f16", "bf16", "i8")
    specialises: bool = False
    memory: float = 80e9
    l2_size: float = 40 * 2**20
    pcie: float = 31.5e9
    launch: float = 2.5e-6

    @property
    def tensor_peak(self) -> float:
        """Dense f16 FLOP/s of the whole device."""
        return self.tensor_flops * self.multiprocessors * self.clock


_A100 = Device(
    # NVIDIA A100 SXM 80 GB: 312 TFLOP/s at 1410 MHz, 2.04 TB/s; the 163 KiB limit was compiled against.
    name="sm_80", marketing_name="A100",
    shared_memory=166_912, shared_memory_total=167_936, registers=65_536, max_registers=255,
    warp_size=32, max_warps=64, multiprocessors=108, has_tma=False, operands_in_registers=True,
    tile_registers=160, bulk_tile_registers=0,
    clock=1.41e9, tensor_flops=2048, vector_flops=128, exponentials=16, issue=4, l2_bytes=32, bandwidth=2.04e12,
    memory=80e9, l2_size=40 * 2**20, pcie=31.5e9,
)  # fmt: skip

_H100 = Device(
    # NVIDIA H100 SXM: 989.5 TFLOP/s at 1830 MHz, 3.35 TB/s; 16 exponentials a cycle from the FlashAttention-3
    # paper (arXiv 2407.08608); L2 from public microbenchmarks, 5.5 to 7 TB/s over all multiprocessors.
    name="sm_90", marketing_name="H100",
    shared_memory=232_448, shared_memory_total=233_472, registers=65_536, max_registers=255,
    warp_size=32, max_warps=64, multiprocessors=132, has_tma=True, operands_in_registers=False,
    tile_registers=170, bulk_tile_registers=224,
    clock=1.83e9, tensor_flops=4096, vector_flops=256, exponentials=16, issue=4, l2_bytes=32, bandwidth=3.35e12,
    memory=80e9, l2_size=50 * 2**20, pcie=63e9,
    elements=("f16", "bf16", "i8", "f8"), specialises=True,
)  # fmt: skip

_B200 = Device(
    # NVIDIA B200: 2.25 PFLOP/s, 8 TB/s; special functions as on H100 (FlashAttention-4 report).
    name="sm_100", marketing_name="B200",
    shared_memory=232_448, shared_memory_total=233_472, registers=65_536, max_registers=255,
    warp_size=32, max_warps=64, multiprocessors=148, has_tma=True, operands_in_registers=False,
    tile_registers=156, bulk_tile_registers=156,
    clock=1.85e9, tensor_flops=8192, vector_flops=256, exponentials=16, issue=4, l2_bytes=40, bandwidth=8.0e12,
    memory=180e9, l2_size=126 * 2**20, pcie=63e9,
    elements=("f16", "bf16", "i8", "f8"),
)  # fmt: skip

_MI300X = Device(
    # AMD MI300X: 1307 TFLOP/s at 2100 MHz over 304 compute units, 5.3 TB/s, 64 KiB of LDS each; a lane has 256
    # vector and 256 accumulation registers. The LDS is one allocation with nothing reserved.
    name="gfx942", marketing_name="MI300X",
    shared_memory=65_536, shared_memory_total=65_536, registers=131_072, max_registers=512,
    warp_size=64, max_warps=32, multiprocessors=304, has_tma=False, operands_in_registers=True,
    tile_registers=320, bulk_tile_registers=0,
    clock=2.1e9, tensor_flops=2048, vector_flops=256, exponentials=16, issue=4, l2_bytes=48, bandwidth=5.3e12,
    memory=192e9, l2_size=256 * 2**20, pcie=63e9,
)  # fmt: skip

DEVICES: Mapping[str, Device] = {device.name: device for device in (_A100, _H100, _B200, _MI300X)}

_H200 = replace(
    # NVIDIA H200 SXM data sheet: the H100's multiprocessors and clock, 141 GB at 4.8 TB/s. The same compile target.
    _H100, marketing_name="H200", bandwidth=4.8e12, memory=141e9,
)  # fmt: skip

_RTX_4090 = Device(
    # NVIDIA Ada whitepaper: 128 multiprocessors at 2520 MHz, 165.2 TFLOP/s dense f16 with sums in f32, 82.6 in f32,
    # 72 MB of L2 (about 5 TB/s in public microbenchmarks), 24 GB at 1008 GB/s, PCIe 4.0 x16; CUDA programming guide,
    # compute capability 8.9: 99 of 100 KiB of shared memory a program, 48 warps. Registers of tiles as on sm_80, whose
    # tensor core instructions it has.
    name="sm_89", marketing_name="RTX 4090",
    shared_memory=101_376, shared_memory_total=102_400, registers=65_536, max_registers=255,
    warp_size=32, max_warps=48, multiprocessors=128, has_tma=False, operands_in_registers=True,
    tile_registers=160, bulk_tile_registers=0,
    clock=2.52e9, tensor_flops=512, vector_flops=256, exponentials=16, issue=4, l2_bytes=16, bandwidth=1.008e12,
    elements=("f16", "bf16", "i8", "f8"), memory=24e9, l2_size=72 * 2**20, pcie=31.5e9,
)  # fmt: skip

_L40S = replace(
    # NVIDIA L40S data sheet: the same chip with 142 multiprocessors, tensor cores at full rate with sums in f32
    # (362 TFLOP/s dense f16), 96 MB of L2, 48 GB at 864 GB/s.
    _RTX_4090, marketing_name="L40S", multiprocessors=142, tensor_flops=1024, bandwidth=0.864e12, memory=48e9,
    l2_size=96 * 2**20,
)  # fmt: skip

MARKETED: Mapping[str, Device] = {
    "a100": _A100, "h100": _H100, "h200": _H200, "b200": _B200, "rtx4090": _RTX_4090, "l40s": _L40S,
    "mi300x": _MI300X,
}  # fmt: skip
"""Devices by the names that they are sold under, for predictions. The `name` of each is its compile target; kernels
are made only for those in `DEVICES`, so that none runs on sm_89 today."""

INTERPRETER = "interpret"
"""The target that is no device: Triton's interpreter, which has no limits and no speed."""

TARGETS: tuple[str, ...] = (*DEVICES, *CPUS, INTERPRETER)


def device_named(target: str) -> Device:
    """The device called `target`, such as `sm_90`; fails for any other name."""
    if target in CPUS:
        raise error(f"target '{target}' is a CPU, and this needs one of {', '.join(DEVICES)}")
    if target not in DEVICES:
        raise error(f"target must be one of {', '.join(TARGETS)}, but is '{target}'")
    return DEVICES[target]


def device_described(name: str) -> Device:
    """The device sold as `name`, such as "h200", or the first of those with a compile target, such as "sm_90"."""
    plain = name.lower().replace(" ", "").replace("-", "").replace("_", "")
    if plain in MARKETED:
        return MARKETED[plain]
    of_target = next((device for device in MARKETED.values() if device.name == name), None)
    if of_target is not None:
        return of_target
    targets = dict.fromkeys(device.name for device in MARKETED.values())
    raise error(f"device must be one of {', '.join((*MARKETED, *targets))}, but is '{name}'")
