"""Keeps compiled objects as files, loads kernels from them, and compiles what is missing, foreign or damaged."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ..ir.diagnostics import error
from .host_cpu import host_features, host_model, host_name
from .kernel_cache import cache_directory, write_atomically
from .native_compiler import BUILDING, OPTIMIZATION, PIPELINE, WRAPPER, compile_object
from .native_object import BadObject, load_object
from .native_threads import NativeFunction
from .private_files import distrust, narrow
from .version import VERSION

ABI = 1  # of the block of arguments that kernels get
_FORMAT = 1
_MAGIC = b"attirobj"
_HEADER = struct.Struct("<8sI32sQ32s")  # magic, format, key, length and digest of what follows

COMPILED, DISK, MEMORY = "compiled", "disk", "memory"


@dataclass(frozen=True)
class LoadedKernels:
    """The functions of one MLIR module, by name, and where their code came from.

    `origin` is "memory", "disk", or "compiled", the last with a reason if there was a file for it.
    """

    functions: dict[str, NativeFunction]
    origin: str


_loaded: dict[bytes, LoadedKernels] = {}


def load_kernels(text: str) -> LoadedKernels:
    """The functions of an MLIR module, ready to run: from this process, from the cache, or compiled now.

    Raises CompileError where the text cannot be compiled.
    """
    key = cache_key(text)
    if (found := _loaded.get(key)) is not None:
        return replace(found, origin=MEMORY)
    with BUILDING:
        if key in _loaded:
            return replace(_loaded[key], origin=MEMORY)
        _loaded[key] = found = _load(text, key)
        return found


def forget_kernels() -> None:
    """Let go of all kernels in memory, so that the next use reads them from disk."""
    with BUILDING:
        _loaded.clear()


def _load(text: str, key: bytes) -> LoadedKernels:
    def build() -> bytes:
        return compile_object(text)

    path = object_path(key, objects_folder())
    try:
        data, origin = _cached(key, build, path)
        try:
            loaded = load_object(data)
        except BadObject as problem:
            if origin != DISK:
                raise
            data, origin = _build(key, build, path, f"the cached object cannot be loaded: {problem}")
            loaded = load_object(data)
    except BadObject as problem:
        raise error(f"cannot load a compiled kernel: {problem}") from problem
    names = [name for name in loaded.symbols if not name.startswith(WRAPPER)]
    return LoadedKernels({name: NativeFunction(loaded.address(name), loaded) for name in names}, origin)


def cached_object(key_text: str, build: Callable[[], bytes], directory: Path) -> tuple[bytes, str]:
    """The object that `build` makes from `key_text` on this machine, and where it came from.

    A file that is damaged or for something else is replaced. Where it cannot be written the object
    is compiled in each process anew; the origin says so.
    """
    key = cache_key(key_text)
    return _cached(key, build, object_path(key, directory))


def _cached(key: bytes, build: Callable[[], bytes], path: Path) -> tuple[bytes, str]:
    if reason := _distrust(path):
        return build(), f"{COMPILED}: the cache is not used: {reason}"
    try:
        return unpack_object(path.read_bytes(), key), DISK
    except FileNotFoundError:
        return _build(key, build, path, "")
    except OSError as problem:
        return _build(key, build, path, f"the cached object cannot be read ({problem.strerror})")
    except UnusableObject as problem:
        return _build(key, build, path, f"the cached object {problem}")


def _distrust(path: Path) -> str:
    """Why the code at `path` may be somebody else's; "" if only this user could have written it."""
    cache = cache_directory()
    reason = distrust(*([cache] if path.is_relative_to(cache) else []), path.parent, path)
    if not reason:
        narrow(path.parent)
        narrow(path)
    return reason


def _build(key: bytes, build: Callable[[], bytes], path: Path, reason: str) -> tuple[bytes, str]:
    data = build()
    reasons = [reason] if reason else []
    try:
        write_atomically(path, _pack(data, key))
    except OSError as problem:
        reasons.append(f"cannot keep it in {path.parent} ({problem.strerror}); set ATTIR_CACHE_DIR")
    else:
        _list_object(path, data)
    return data, f"{COMPILED}: {'; '.join(reasons)}" if reasons else COMPILED


def _list_object(path: Path, data: bytes) -> None:
    """Tell the tuning cache of an object beside it."""
    if path.parent == objects_folder():
        # Who only loads what is there needs no database.
        from .tuning_cache import tuning_cache

        tuning_cache().keep_object(path.name, len(data))


class UnusableObject(Exception):  # noqa: N818 - nothing went wrong: a file is of no use
    """Why a file is not the object that is looked for."""


def _pack(data: bytes, key: bytes) -> bytes:
    return _HEADER.pack(_MAGIC, _FORMAT, key, len(data), hashlib.sha256(data).digest()) + data


def unpack_object(file: bytes, key: bytes | None = None) -> bytes:
    """The object code in a file for `key`, or for whatever it is where None; raises UnusableObject."""
    if len(file) < _HEADER.size:
        raise UnusableObject("was truncated")
    magic, written, found, length, digest = _HEADER.unpack_from(file)
    data = file[_HEADER.size :]
    if magic != _MAGIC:
        raise UnusableObject("was another program's file")
    if written != _FORMAT:
        raise UnusableObject(f"has format {written}; expected {_FORMAT}")
    if key is not None and found != key:
        raise UnusableObject("was for other kernels, another CPU or other versions")
    if len(data) != length:
        raise UnusableObject("was truncated" if len(data) < length else "was followed by something else")
    if hashlib.sha256(data).digest() != digest:
        raise UnusableObject("was damaged")
    return data


def object_key(file: bytes) -> bytes:
    """What the object in a file is for; the file is one that `unpack_object` takes."""
    return _HEADER.unpack_from(file)[2]


def objects_folder() -> Path:
    """Where objects lie, beside the tuning cache."""
    return cache_directory() / "objects"


def object_path(key: bytes, directory: Path) -> Path:
    """The file of an object; the whole key is inside it."""
    return directory / f"{key.hex()[:20]}.object"


def cache_key(key_text: str) -> bytes:
    """A digest of everything that machine code depends on: text, CPU, compiler."""
    machine = (host_name(), host_model(), *host_features())
    parts = (key_text, *machine, *_versions(), PIPELINE, str(OPTIMIZATION), str(ABI))
    return hashlib.sha256("\0".join(parts).encode()).digest()


@cache
def _versions() -> tuple[str, str]:
    """Of torch-mlir and of attir; reads what is installed and imports neither."""
    try:
        return version("torch-mlir"), VERSION
    except PackageNotFoundError:
        return "none", VERSION
