"""Keeps generated modules as files, which Triton needs to read a kernel's source, and imports them."""

from __future__ import annotations

import atexit
import hashlib
import importlib.util
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path
from types import ModuleType

from ..ir.diagnostics import error
from .private_files import distrust, make_private_folder
from .warn_once import warn_once


def cache_directory() -> Path:
    """Where attir keeps files between runs: ATTIR_CACHE_DIR, else `attir` in the user's cache directory."""
    if chosen := os.environ.get("ATTIR_CACHE_DIR"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "attir"


def source_file(source: str, name: str) -> Path:
    """The file that holds `source` and nothing else, named by its content; written whole or not at all."""
    path = cache_directory() / "kernels" / f"{name}_{hashlib.sha256(source.encode()).hexdigest()[:20]}.py"
    try:
        if reason := distrust(cache_directory(), path.parent, path):
            path = _own_folder(reason) / path.name
        if _content(path) != source.encode():
            write_atomically(path, source.encode())
    except OSError as problem:
        raise error(
            f"cannot write a kernel to the cache at {path.parent}: {problem.strerror}; set ATTIR_CACHE_DIR"
        ) from problem
    return path


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


@cache
def _own_folder(reason: str) -> Path:
    """A folder of this process's, for when others may write to the cache."""
    warn_once(f"kernels are not kept: {reason}")
    folder, process = tempfile.mkdtemp(prefix="attir-kernels-"), os.getpid()

    def remove() -> None:
        if os.getpid() == process:
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return Path(folder)


def write_atomically(path: Path, data: bytes) -> None:
    """Make `path` hold `data`, for this user alone; whoever reads it meanwhile sees what it held. Raises OSError."""
    make_private_folder(path.parent)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        Path(temporary).replace(path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise


def load_module(source: str, name: str) -> ModuleType:
    """A fresh module from `source`; each call gives its own."""
    path = source_file(source, name)
    spec = importlib.util.spec_from_file_location(f"attir_kernel_{path.stem}", path)
    assert spec is not None, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    # Not the file, nor bytecode beside it: Triton reads it, but what runs is what was asked for.
    exec(compile(source, str(path), "exec"), module.__dict__)
    return module
