"""Objects are kept on disk; what is damaged, foreign or unreadable is compiled anew, and said."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from unit.compiler.counting_kernel import COUNT, counts

from attir.compiler import native_cache
from attir.compiler.native_cache import cache_key, cached_object, forget_kernels, load_kernels, object_path
from attir.ir.diagnostics import CompileError

OBJECT = b"the object of a test"


def never() -> bytes:
    raise AssertionError("compiled what was on disk")


def fresh() -> bytes:
    return OBJECT


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """The file of OBJECT, made from the text `text`, in tmp_path."""
    cached_object("text", fresh, tmp_path)
    return object_path(cache_key("text"), tmp_path)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with nothing in it, in memory or on disk; the folder of its objects."""
    monkeypatch.setenv("ATTIR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(native_cache, "_loaded", {})
    return tmp_path / "objects"


def test_an_object_is_compiled_once(tmp_path: Path) -> None:
    assert cached_object("text", fresh, tmp_path / "new" / "folder") == (OBJECT, "compiled")
    assert cached_object("text", never, tmp_path / "new" / "folder") == (OBJECT, "disk")
    assert cached_object("other text", fresh, tmp_path / "new" / "folder") == (OBJECT, "compiled")


def test_nothing_else_is_left_in_the_folder(stored: Path) -> None:
    assert list(stored.parent.iterdir()) == [stored]


def replaced(stored: Path, content: bytes) -> str:
    """The origin with `content` in the file, after which the file must be whole again."""
    stored.write_bytes(content)
    data, origin = cached_object("text", fresh, stored.parent)
    assert data == OBJECT
    assert cached_object("text", never, stored.parent) == (OBJECT, "disk")
    return origin


def test_every_wrong_byte_is_noticed(stored: Path) -> None:
    whole = stored.read_bytes()
    for place, byte in enumerate(whole):
        origin = replaced(stored, whole[:place] + bytes([byte ^ 1 << place % 8]) + whole[place + 1 :])
        assert origin.startswith("compiled: the cached object ")


def test_every_length_is_noticed(stored: Path) -> None:
    whole = stored.read_bytes()
    for length in range(len(whole)):
        assert replaced(stored, whole[:length]) == "compiled: the cached object was truncated"
    assert replaced(stored, whole + b"more") == "compiled: the cached object was followed by something else"


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        (0, "was another program's file"),
        (8, "has format 0; expected 1"),
        (12, "was for other kernels, another CPU or other versions"),
        (52, "was damaged"),
        (-1, "was damaged"),
    ],
)
def test_what_was_wrong_is_said(stored: Path, place: int, reason: str) -> None:
    content = bytearray(stored.read_bytes())
    content[place] ^= 1
    assert replaced(stored, bytes(content)) == f"compiled: the cached object {reason}"


@pytest.mark.parametrize(
    ("of", "value"),
    [("host_features", ("avx2", "sse2")), ("host_name", "Another CPU"), ("host_model", "Maker/6/1"),
     ("_versions", ("torch-mlir of tomorrow", "1")), ("ABI", -1), ("PIPELINE", "builtin.module()")],
)  # fmt: skip
def test_an_object_for_another_machine_is_not_taken(
    stored: Path, monkeypatch: pytest.MonkeyPatch, of: str, value: object
) -> None:
    monkeypatch.setattr(native_cache, of, (lambda: value) if callable(getattr(native_cache, of)) else value)
    assert cached_object("text", fresh, stored.parent) == (OBJECT, "compiled")
    # Not even under the name that this machine would give it.
    here = object_path(cache_key("text"), stored.parent)
    assert here != stored
    stored.replace(here)
    assert "another CPU" in cached_object("text", fresh, stored.parent)[1]


def test_without_a_place_to_write_it_is_compiled_and_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    data, origin = cached_object("text", fresh, tmp_path / "file" / "objects")
    assert data == OBJECT
    assert "cannot keep it in " in origin
    assert "(Not a directory); set ATTIR_CACHE_DIR" in origin


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_no_error(stored: Path) -> None:
    stored.parent.chmod(0o500)
    try:
        assert cached_object("text", never, stored.parent) == (OBJECT, "disk")
        assert "Permission denied" in cached_object("other text", fresh, stored.parent)[1]
    finally:
        stored.parent.chmod(0o700)


def test_a_folder_in_the_place_of_the_file_is_no_error(stored: Path) -> None:
    stored.unlink()
    stored.mkdir()
    data, origin = cached_object("text", fresh, stored.parent)
    assert data == OBJECT
    assert origin.startswith("compiled: the cached object cannot be read (Is a directory); cannot keep it in ")
    assert list(stored.parent.iterdir()) == [stored]


def test_kernels_come_from_the_compiler_then_memory_then_disk(own_cache: Path) -> None:
    for origin in ("compiled", "memory"):
        kernels = load_kernels(COUNT)
        assert kernels.origin == origin
        assert list(kernels.functions) == ["count"]
        assert counts(kernels.functions["count"], 1)
    forget_kernels()
    kernels = load_kernels(COUNT)
    assert kernels.origin == "disk"
    assert counts(kernels.functions["count"], 2)


def test_an_object_that_cannot_be_loaded_is_compiled_anew(own_cache: Path) -> None:
    cached_object(COUNT, fresh, own_cache)
    kernels = load_kernels(COUNT)
    assert kernels.origin == "compiled: the cached object cannot be loaded: not a relocatable x86-64 ELF object"
    assert counts(kernels.functions["count"], 1)
    forget_kernels()
    assert load_kernels(COUNT).origin == "disk"


def test_a_compiler_that_makes_no_objects_is_an_error(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_cache, "compile_object", lambda text: OBJECT)  # pyright: ignore
    with pytest.raises(CompileError, match="cannot load a compiled kernel: not a relocatable"):
        load_kernels(COUNT)


def test_what_cannot_be_compiled_is_not_kept(own_cache: Path) -> None:
    for _ in range(2):
        with pytest.raises(CompileError, match="MLIR rejects"):
            load_kernels("func.func @f() {")
    assert not own_cache.exists()


def test_threads_that_want_the_same_kernel_compile_it_once(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    compile_object: Callable[[str], bytes] = native_cache.compile_object

    def counted(text: str) -> bytes:
        compiled.append(text)
        return compile_object(text)

    monkeypatch.setattr(native_cache, "compile_object", counted)
    good: list[bool] = []
    threads = [
        threading.Thread(target=lambda: good.append(counts(load_kernels(COUNT).functions["count"], 2)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert good == [True] * 8
    assert compiled == [COUNT]


def test_another_process_loads_what_was_compiled_without_torch_mlir(own_cache: Path) -> None:
    load_kernels(COUNT)
    script = (
        "import sys; from attir.compiler.native_cache import load_kernels\n"
        "print(load_kernels(sys.stdin.read()).origin, 'torch_mlir' in sys.modules, 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, input=COUNT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["disk", "False", "False"]


def test_processes_may_fill_the_cache_at_once(own_cache: Path) -> None:
    script = (
        "import sys; from attir.compiler.native_cache import load_kernels\nprint(load_kernels(sys.stdin.read()).origin)"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    said = [process.communicate(COUNT)[0].strip() for process in processes]
    assert set(said) <= {"compiled", "disk"}
    assert load_kernels(COUNT).origin == "disk"
    assert len(list(own_cache.iterdir())) == 1
