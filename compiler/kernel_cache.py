"""Keeps generated modules as files, which Triton needs to read a kernel's source, and imports them."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import tempfile
from pathlib import Path
from types import ModuleType

from ..ir.diagnostics import error


def cache_directory() -> Path:
    """Where attir keeps files between runs: ATTIR_CACHE_DIR, else `attir` in the user's cache directory."""
    if chosen := os.environ.get("ATTIR_CACHE_DIR"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "attir"


def source_file(source: str, name: str) -> Path:
    """The file that holds `source`, named by its content; written whole or not at all."""
    digest = hashlib.sha256(source.encode()).hexdigest()[:20]
    path = cache_directory() / "kernels" / f"{name}_{digest}.py"
    if not path.exists():
        try:
            write_atomically(path, source.encode())
        except OSError as problem:
            raise error(
                f"cannot write a kernel to the cache at {path.parent}: {problem.strerror}; set ATTIR_CACHE_DIR"
            ) from problem
    return path


def write_atomically(path: Path, data: bytes) -> None:
    """Make `path` hold `data`; whoever reads it meanwhile sees what it held before. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
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
    assert spec is not None and spec.loader is not None, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
