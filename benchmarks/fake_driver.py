"""Triton's driver for a GPU that is not there: kernels are compiled for it, and starting one is only written down.

What lies between a compiled kernel and the driver's C function is Triton's own code, of whichever version.
"""

from __future__ import annotations

import gc
import importlib
import re
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch

from attir.compiler.triton_launch import Machine
from attir.compiler.triton_runtime import OnGpu

STREAM, FUNCTION = 7, 1234
FORMAT = re.compile(r'PyArg_ParseTuple\(args, "([A-Za-z()]+)"')


@dataclass(frozen=True)
class Launched:
    """One start of a kernel as the C function gets it: constants are gone, descriptors are taken apart."""

    grid: tuple[int, int, int]
    stream: int
    function: int
    arguments: list[Any]
    scratch: Any


@dataclass(frozen=True)
class TensorMap:
    """What the driver encodes a tensor descriptor to."""

    address: int
    block: list[int]
    shape: list[int]
    strides: list[int]


@dataclass
class FakeDriver:
    """Holds what was started, unless `quiet`; `loads` counts kernels that were loaded.

    `shared` is how much shared memory a program may have.
    """

    launches: list[Launched] = field(default_factory=list[Launched])
    maps: list[TensorMap] = field(default_factory=list[TensorMap])
    loads: int = 0
    shared: int = 232_448
    quiet: bool = False

    def __post_init__(self) -> None:
        self.nvidia: Any = importlib.import_module("triton.backends.nvidia.driver")
        self.launcher_cls = self.nvidia.CudaLauncher
        self.utils = SimpleNamespace(
            load_binary=self._load, unload_module=self._unload, launch=self._launch,
            build_signature_metadata=list, fill_tma_descriptor=self._encode, fill_tma_descriptor_tiled=self._encode,
        )  # fmt: skip

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return STREAM

    def get_current_target(self) -> Any:
        return importlib.import_module("triton.backends.compiler").GPUTarget("cuda", 90, 32)

    def allocate_default_profile_scratch(self, size: int, alignment: int, stream: int) -> None:
        raise AssertionError("nothing is profiled here")

    def _load(self, name: str, binary: bytes, shared: int, device: int) -> tuple[int, int, int, int, int]:
        assert binary.startswith(b"\x7fELF")
        self.loads += 1
        return 1, FUNCTION, 128, 0, 1024

    def _unload(self, module: int) -> None:
        """Nothing was loaded."""

    def shared_memory(self, device: int) -> int:
        return self.shared

    def _encode(
        self, address: int, swizzle: int, elem_size: int, elem_type: int, block: Any, shape: Any, strides: Any, pad: int
    ) -> TensorMap:
        self.maps.append(TensorMap(address, list(block), list(shape), list(strides)))
        return self.maps[-1]

    # --- the C functions of both versions

    def _launch(self, *given: Any) -> None:
        """Triton 3.9: one function for all kernels, which is told the types and which arguments are constants."""
        if self.quiet:
            return
        x, y, z, stream, function, _, _, packed, _, enter, leave, scratch, _, annotations, types, arguments = given
        assert len(packed) == 3 and enter is None and leave is None
        kept = [a for a, note in zip(arguments, annotations, strict=True) if note.type == self.nvidia.ARG_KERNEL]
        _check(types, kept)
        self.launches.append(Launched((x, y, z), stream, function, kept, scratch))

    def launcher_of(self, src: str, **_: object) -> Any:
        """Triton 3.6: a function for each signature, written in C with the types of its arguments."""
        found = FORMAT.search(src)
        assert found is not None
        letters = found.group(1)[len(self.nvidia._BASE_ARGS_FORMAT) :]
        passed = [int(n) for n in re.findall(r"&arg(\d+)", src)]

        def launch(*given: Any) -> None:
            if self.quiet:
                return
            x, y, z, stream, function, _, _, scratch, _, packed, _, enter, leave, *arguments = given
            assert len(packed) == 3 and enter is None and leave is None
            assert len(arguments) == len(letters)
            kept = [arguments[i] for i in passed]
            _check([{"i": "i32", "L": "i64", "O": "*"}[letters[i]] for i in passed], kept)
            self.launches.append(Launched((x, y, z), stream, function, kept, scratch))

        return SimpleNamespace(launch=launch)


def _check(types: Sequence[str], arguments: Sequence[Any]) -> None:
    """Whether each argument is what C would take for its type."""
    assert len(types) == len(arguments)
    for type_, argument in zip(types, arguments, strict=True):
        if type_ in ("*", "nvTmaDesc") and isinstance(argument, TensorMap):
            continue
        assert type(argument) is int, f"{type_} is given {argument!r}"
        if type_ == "i32":
            assert -(2**31) <= argument < 2**31


class FakeMachine(Machine):
    """A GPU whose memory is that of the CPU."""

    capturing = False

    def device(self, number: int) -> torch.device:
        return torch.device("cpu")

    def current(self) -> int:
        return -1

    def using(self, device: int) -> AbstractContextManager[object]:
        return nullcontext()

    def is_capturing(self) -> bool:
        return self.capturing


class FakeGpu(OnGpu):
    """Takes CPU tensors for those of a GPU."""

    def takes(self, device: torch.device) -> bool:
        return True


@contextmanager
def fake_driver() -> Generator[FakeDriver]:
    """Lets Triton use a fake driver."""
    driver = FakeDriver()
    nvidia, kinds = driver.nvidia, {"PyKernelArg": SimpleNamespace, "ARG_CONSTEXPR": 0, "ARG_KERNEL": 1, "ARG_TUPLE": 2}
    with ExitStack() as undo:
        undo.enter_context(patch.object(importlib.import_module("triton.runtime").driver, "_active", driver))
        for name, value in {**kinds, "compile_module_from_src": driver.launcher_of, "library_dirs": list}.items():
            undo.enter_context(patch.object(nvidia, name, value, create=True))
        # Triton remembers what devices have for the life of the process.
        compiler = importlib.import_module("triton.compiler.compiler")
        undo.enter_context(patch.object(compiler, "max_shared_mem", driver.shared_memory))
        undo.callback(gc.collect)  # kernels are unloaded by the driver that they were loaded by
        yield driver
