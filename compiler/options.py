"""What a user may ask of the compiler, checked before anything runs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..ir.diagnostics import error
from .dump import check_directory
from .native_support import native_problem

BACKENDS = ("auto", "native", "triton", "interpret")
RESTS = ("eager", "inductor")
FUSE_ROWS = ("auto", "always", "never")
AUTOTUNES = ("off",)


@dataclass(frozen=True)
class Options:
    """The options of `attir.compile`; raises CompileError on one that is unknown or not available.

    `backend` runs fused sites: "native" as machine code on the CPU, "triton" on a GPU, "interpret"
    in Triton's interpreter on the CPU, for correctness only; "auto" goes by where the tensors are.
    `rest` runs everything else. `strict` turns refused sites into errors. `dump` is a directory for
    the IR of every step and the kernels. `cache=False` compiles every site anew. `fuse_rows` says
    whether RoPE, norms, factors and gates around an attention become part of its kernel: "auto" where
    an estimate says that it pays, "always" wherever it can be, or "never".
    """

    backend: str = "auto"
    rest: str = "eager"
    autotune: str = "off"
    strict: bool = False
    max_error: float | None = None
    sparsity: Any = None
    quantize: Any = None
    dynamic: bool | None = None
    dump: str | Path | None = None
    cache: bool = True
    fuse_rows: str = "auto"

    def __post_init__(self) -> None:
        _one_of("backend", self.backend, BACKENDS)
        if self.backend == "native" and (problem := native_problem()):
            raise error(f"backend 'native' cannot run here: {problem}")
        _one_of("rest", self.rest, RESTS)
        _one_of("fuse_rows", self.fuse_rows, FUSE_ROWS)
        if self.autotune not in AUTOTUNES:
            raise error(f"autotune={self.autotune!r} is not available yet; only 'off' is")
        for name in ("max_error", "sparsity", "quantize"):
            if getattr(self, name) is not None:
                raise error(f"{name}={getattr(self, name)!r} is not available yet; compilation is exact")
        for name in ("strict", "cache"):
            _boolean(name, getattr(self, name))
        if self.dynamic is not None:
            _boolean("dynamic", self.dynamic)
        if str(self.dump) == "":
            raise error("dump must name a directory, but is empty")
        if self.dump is not None:
            check_directory(Path(self.dump))


def _one_of(name: str, value: object, known: Collection[str]) -> None:
    if value not in known:
        raise error(f"unknown {name} {value!r}; expected {', '.join(known)}")


def _boolean(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise error(f"{name} must be True or False, but is {value!r}")
