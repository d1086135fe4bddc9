"""Knows what the CPU of this machine can run; reads /proc/cpuinfo once and imports nothing heavy."""

from __future__ import annotations

import platform
import sys
from functools import cache
from itertools import takewhile
from pathlib import Path

from ..ir.diagnostics import CompileError, error

# What generated code uses beyond the first x86-64, by the flags' names in /proc/cpuinfo.
_AVX2 = ("avx2", "fma", "f16c")
_AVX512 = ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd", "fma", "f16c")
_BYTE_DOTS = {"avx512": "avx512_vnni", "avx2": "avx_vnni"}
_INSTEAD = 'backend="interpret" runs without it (slowly, for correctness only)'


@cache
def processor() -> dict[str, str]:
    """What the kernel says of the first processor: `model name`, `flags`, …; {} where it says nothing."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as file:
            # Processors are paragraphs; one is enough, and a big machine has hundreds.
            first = list(takewhile(str.strip, file))
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first)
    return {name.strip(): value.strip() for name, _, value in pairs}


def machine() -> tuple[str, str]:
    """The system and the instruction set, as ("linux", "x86_64")."""
    return sys.platform, platform.machine()


def host_name() -> str:
    """The processor's name as its maker writes it, such as `AMD EPYC`; makers reuse names."""
    return processor().get("model name") or "unknown processor"


def host_model() -> str:
    """Maker, family and model: with these LLVM chooses how it orders instructions."""
    return "/".join(processor().get(key, "?") for key in ("vendor_id", "cpu family", "model"))


def host_features() -> tuple[str, ...]:
    """Everything the kernel says the processor has, sorted: LLVM may use any of it."""
    return tuple(sorted(set(processor().get("flags", "").split())))


def host_target() -> str:
    """`avx512` or `avx2`, the wider that this machine runs; CompileError where it runs neither."""
    if machine() not in (("linux", "x86_64"), ("linux", "AMD64")):
        raise _unsupported("Linux on x86-64", "this is {} on {}".format(*machine()))
    features = host_features()
    if not features:
        raise _unsupported("AVX2 with FMA and F16C", "/proc/cpuinfo does not say what this CPU has")
    if not _missing(_AVX512, features):
        return "avx512"
    if missing := _missing(_AVX2, features):
        raise _unsupported("AVX2 with FMA and F16C", f"this CPU ({host_name()}) lacks {', '.join(missing)}")
    return "avx2"


def host_has_byte_dots(target: str) -> bool:
    """Whether this CPU multiplies bytes and adds them up in 32 bits, in vectors as long as those of `target`."""
    return _BYTE_DOTS.get(target, "?") in host_features()


def _missing(needed: tuple[str, ...], features: tuple[str, ...]) -> list[str]:
    return [feature for feature in needed if feature not in features]


def _unsupported(needed: str, actual: str) -> CompileError:
    return error(f"the native backend needs {needed}, but {actual}; {_INSTEAD}")
