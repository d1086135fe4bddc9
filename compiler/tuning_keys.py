"""Names what a kept plan or measurement holds for: the device and the tools; `canonical_key.py` names the program."""

from __future__ import annotations

import hashlib
import os
import sys
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..cost_model.cpus import CPUS
from ..cost_model.devices import DEVICES, INTERPRETER
from ..ir.diagnostics import CompileError
from .host_cpu import host_features, host_model, host_name, host_target
from .native_cache import ABI
from .native_compiler import OPTIMIZATION, PIPELINE
from .version import VERSION


@dataclass(frozen=True, order=True)
class Key:
    """What an entry holds for; each part that differs is a reason of its own not to use it.

    `ir` is the `canonical_key` of a program, `bucket` stands for its sizes, `mask` for how much a mask keeps that is
    known only in a call ("" else), `device` and `toolchain` are as the functions below make them, `version` is
    attir's.
    """

    ir: str
    bucket: str = ""
    mask: str = ""
    device: str = ""
    toolchain: str = ""
    version: str = VERSION

    @property
    def text(self) -> str:
        """The key as one line, for people."""
        return " | ".join(asdict(self).values())


def device_fingerprint(target: str) -> str:
    """The device that a target stands for here, in words: this machine's where it is one of the kind, else its name.

    What is measured on one is of no use on another.
    """
    if target in CPUS:
        return _cpu(target)
    if target in DEVICES:
        return _gpu(target)
    return "Triton's interpreter" if target == INTERPRETER else target


def _cpu(target: str) -> str:
    if not _runs(target):
        return f"{target}, described"
    digest = hashlib.sha256(" ".join((host_model(), *host_features())).encode()).hexdigest()[:8]
    caches = " ".join(_caches()) or "caches unknown"
    return f"{target}, {host_name()}, {_processors()} processors, {caches}, features {digest}"


def _runs(target: str) -> bool:
    """Whether this CPU is one of the kind; those with wide vectors have narrow ones, too."""
    try:
        return host_target() in (target, "avx512")
    except CompileError:
        return False


@cache
def _processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def _caches() -> tuple[str, ...]:
    """Levels and sizes of the first processor's caches for data: ("L1 48K", "L2 1024K", "L3 32768K")."""
    found: list[str] = []
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, size = ((folder / name).read_text().strip() for name in ("level", "type", "size"))
        except OSError:
            continue
        if kind != "Instruction":
            found.append(f"L{level} {size}")
    return tuple(found)


def _gpu(target: str) -> str:
    """The GPU in use if it is of the kind; a process without PyTorch uses none."""
    torch: Any = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "cuda") or not torch.cuda.is_available():
        return f"{target}, {DEVICES[target].marketing_name} as described"
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    amd = getattr(properties, "gcnArchName", "").partition(":")[0]
    if target not in (amd, f"sm_{properties.major}{properties.minor}"):
        return f"{target}, {DEVICES[target].marketing_name} as described"
    memory = properties.total_memory >> 30
    return f"{target}, {properties.name}, {properties.multi_processor_count} multiprocessors, {memory} GiB"


def toolchain(target: str) -> str:
    """What turns a plan for `target` into code here, with versions: another may make other code of it."""
    if target in CPUS:
        passes = hashlib.sha256(f"{PIPELINE} {OPTIMIZATION}".encode()).hexdigest()[:8]
        return f"torch-mlir {_version('torch-mlir')}, passes {passes}, ABI {ABI}"
    return f"triton {_version('triton')}"


@cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
