"""What a user may ask of the compiler, checked before anything runs."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ..cost_model.schedule import AS_MANY_AS_FIT
from ..ir.diagnostics import error
from .dump import check_directory
from .native_support import native_problem
from .tuning import SECONDS, Tuning

BACKENDS = ("auto", "native", "triton", "interpret")
RESTS = ("eager", "inductor")
FUSE_ROWS = ("auto", "always", "never")
AUTO = "auto"
"""The sparsity or the precision that calibration chooses."""
AUTOS = ("sparsity", "quantize")
"""The options that can be so."""
BACKEND_OPTIONS = (
    "block_m", "block_n", "num_warps", "num_stages", "descriptors", "persistent", "swap", "specialised", "lists",
    "gluon",
)  # fmt: skip
"""Tile sizes, warps and stages; who makes tensor descriptors ("host", "device", "" for pointers); how many programs
stay (True: as many as fit); what else a kernel is like (see `Schedule`); and another language to write it in."""


@dataclass(frozen=True)
class Options:
    """The options of `attir.compile`; raises CompileError on one that is unknown or not available.

    `backend` runs fused sites: "native" as machine code on the CPU, "triton" on a GPU, "interpret"
    in Triton's interpreter on the CPU, for correctness only; "auto" goes by where the tensors are.
    `rest` runs everything else. `strict` turns refused sites into errors. `dump` is a directory for
    the IR of every step and the kernels. `cache=False` compiles every site anew. `fuse_rows` says
    whether RoPE, norms, factors and gates around an attention become part of its kernel: "auto" where
    an estimate says that it pays, "always" wherever it can be, or "never". `backend_options` say how
    kernels for GPUs are built, by the names in `BACKEND_OPTIONS`: `{"persistent": True}`; what cannot be
    followed is refused.

    `sparsity` is a mask of `attir.masks` that every site's own is combined with, or a lossy choice of blocks:
    `attir.sparsity.select(...)`, or "auto", which `attir.calibrate` chooses for each site within `max_error`,
    the relative L2 error of its output.

    `quantize` is how every site's q, k and v are put in few bits, which is lossy: the name of a scheme
    ("int8", "fp8", "kv8", "kv_fp8", "kv7" to "kv1"), one from `attir.quantization.scheme(...)`, or "auto", which
    `attir.calibrate` chooses for each site so that the relative L2 error of the model's outputs is within `max_error`.
    A scheme with `max_error` is calibrated too: as many sites take it as the budget lets.

    `autotune` says how a kernel's schedule is chosen: "off" by the cost model alone; "topK", such as "top3", by
    measuring the K best of its candidates on the tensors of a first call; "full" by measuring all, the bad ones
    briefly; "background", or "background:top8", while the first calls run the model's choice. `tune_seconds` is what
    that may take for a site and a bucket of sizes. What was found is kept, and measured once.
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
    backend_options: Mapping[str, Any] | tuple[tuple[str, Any], ...] | None = None
    tune_seconds: float = SECONDS

    def __post_init__(self) -> None:
        _one_of("backend", self.backend, BACKENDS)
        if self.backend == "native" and (problem := native_problem()):
            raise error(f"backend 'native' cannot run here: {problem}")
        _one_of("rest", self.rest, RESTS)
        _one_of("fuse_rows", self.fuse_rows, FUSE_ROWS)
        self._check_tuning()
        self._check_quantize()
        self._check_budget()
        self._check_sparsity()
        for name in ("strict", "cache"):
            _boolean(name, getattr(self, name))
        object.__setattr__(self, "backend_options", _backend_options(self.backend_options))
        if self.selects:
            self._check_selection()
        if self.quantize is not None and self.fuse_rows == "always":
            raise error(
                "fuse_rows='always' makes RoPE and norms part of the kernel, but q and k are quantised behind them; "
                "expected 'auto' or 'never'"
            )
        if self.dynamic is not None:
            _boolean("dynamic", self.dynamic)
        if str(self.dump) == "":
            raise error("dump must name a directory, but is empty")
        if self.dump is not None:
            check_directory(Path(self.dump))

    @property
    def auto(self) -> str:
        """Which option calibration chooses; empty where none."""
        from .schemes import Scheme

        budgeted = self.max_error is not None and isinstance(self.quantize, Scheme)
        return next((name for name in AUTOS if self._is_auto(name)), "quantize" if budgeted else "")

    def _is_auto(self, name: str) -> bool:
        value = getattr(self, name)
        return isinstance(value, str) and value == AUTO

    def _check_budget(self) -> None:
        """Fail where `max_error` is no budget, where nothing is there to spend it, and where it is missing."""
        value: Any = self.max_error
        if value is None:
            if self.auto:
                whose = "a site may have" if self.auto == "sparsity" else "outputs may have"
                raise error(f"{self.auto}='{AUTO}' needs max_error=, the relative L2 error that {whose}, such as 0.05")
            return
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
            raise error(f"max_error must be a positive relative error, but is {value!r}")
        if not self.auto:
            autos = " or ".join(f"{name}='{AUTO}'" for name in AUTOS)
            raise error(f"max_error={value} is a budget for {autos}, or for a scheme, but none is asked for")
        if all(map(self._is_auto, AUTOS)):
            raise error(f"{' and '.join(AUTOS)} cannot both be '{AUTO}': there is one max_error; expected one of them")
        if self.auto == "sparsity" and self.quantize is not None:
            raise error(
                f"sparsity='{AUTO}' compares choices of blocks with attention that is exact otherwise; expected "
                "quantize=None"
            )

    def _check_tuning(self) -> None:
        if not self.tuning.wanted:
            return
        if self.backend == "interpret":
            raise error(
                f"autotune={self.autotune!r} measures kernels, but backend 'interpret' runs them for correctness only: "
                "its times say nothing; expected autotune='off'"
            )

    @property
    def tuning(self) -> Tuning:
        """How much may be measured."""
        return Tuning.parse(self.autotune, self.tune_seconds)

    def _check_quantize(self) -> None:
        """Put the scheme in place of its name."""
        if self.quantize is None or self._is_auto("quantize"):
            return
        from .schemes import scheme

        object.__setattr__(self, "quantize", scheme(self.quantize))

    def _check_sparsity(self) -> None:
        if self.sparsity is None or self._is_auto("sparsity"):
            return
        from .selection import Selection

        if not isinstance(self.sparsity, Selection):
            from .mask_algebra import Mask

            if not isinstance(self.sparsity, Mask):
                raise error(
                    f"sparsity must be a mask of attir.masks, attir.sparsity.select(...) or '{AUTO}', "
                    f"but is {self.sparsity!r}"
                )

    def _check_selection(self) -> None:
        if self.gluon:
            raise error("kernels in Gluon read no block lists, so blocks cannot be chosen; expected gluon=False")
        if dict(self.wishes).get("specialised"):
            raise error("specialised warps visit no listed blocks, so blocks cannot be chosen; expected specialised=0")
        if self.fuse_rows == "always":
            raise error(
                "fuse_rows='always' makes RoPE and norms part of the kernel, but estimates need q and k behind them; "
                "expected 'auto' or 'never'"
            )

    @property
    def selects(self) -> bool:
        """Whether blocks of keys are chosen by an estimate."""
        from .selection import Selection

        return isinstance(self.sparsity, str | Selection)

    @property
    def reads_rows(self) -> bool:
        """Whether something in front of kernels reads q and k as they enter the product."""
        return self.selects or self.quantize is not None

    @property
    def wishes(self) -> tuple[tuple[str, int | str], ...]:
        """Fields of a schedule, with values, that the planner must follow."""
        found = cast("tuple[tuple[str, Any], ...]", self.backend_options)
        return tuple((name, _number(name, value)) for name, value in found if name != "gluon")

    @property
    def gluon(self) -> bool:
        """Whether kernels are written in Gluon where they can be."""
        return bool(dict(cast("tuple[tuple[str, Any], ...]", self.backend_options)).get("gluon"))


def _number(name: str, value: Any) -> int | str:
    if value is True and name == "persistent":
        return AS_MANY_AS_FIT
    return value if isinstance(value, str) else int(value)


def _backend_options(given: Any) -> tuple[tuple[str, Any], ...]:
    """The entries in order of their names; CompileError on one that is unknown or of the wrong kind."""
    if given is not None and not isinstance(given, Mapping | tuple):
        raise error(f"backend_options must be a dictionary, but is {given!r}")
    entries: dict[Any, Any] = dict(cast(Any, given or {}))
    for name, value in entries.items():
        _one_of("backend option", name, BACKEND_OPTIONS)
        text = name == "descriptors"
        if not isinstance(value, str if text else int):
            raise error(f"backend option {name!r} must be {'a string' if text else 'a number'}, but is {value!r}")
    return tuple(sorted(entries.items()))


def _one_of(name: str, value: object, known: Collection[str]) -> None:
    if value not in known:
        raise error(f"unknown {name} {value!r}; expected {', '.join(known)}")


def _boolean(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise error(f"{name} must be True or False, but is {value!r}")
