"""Running kernels in Triton's interpreter without leaving a trace in Triton, and right for bfloat16."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from triton.runtime.jit import JITFunction
from unit.codegen.kernels import row_kernel, run

from attir.compiler import triton_interpreter
from attir.compiler.attention_cases import Case, Shape
from attir.compiler.kernel_cache import cache_directory, load_module, source_file
from attir.compiler.kernels import compile_site
from attir.compiler.options import Options
from attir.ir.attributes import bf16, f32
from attir.ir.builder import Builder
from attir.ir.core import Value
from attir.ir.diagnostics import CompileError
from attir.ir.dialects import arith


def language() -> dict[str, object]:
    """Everything the interpreter touches in Triton."""
    spaces = {"tl": tl, "core": tl.core, "standard": tl.standard, "math": tl.math, "tensor": tl.tensor}
    return {f"{space}.{name}": member for space, holder in spaces.items() for name, member in vars(holder).items()}


def assert_unchanged(before: dict[str, object]) -> None:
    after = language()
    assert [name for name, member in before.items() if after.get(name) is not member] == []
    assert isinstance(language()["tl.max"], JITFunction)


def doubled(builder: Builder, tiles: list[Value]) -> Value:
    return builder.binary(arith.AddFOp, tiles[0], tiles[0])


def test_nothing_of_triton_stays_changed() -> None:
    case = Case(bf16, 16, form="softcap")
    q, k, v, captures = case.tensors(Shape(queries=5, keys=5))
    site = compile_site(case.module(), Options(backend="interpret"))
    site.runner(q, k, v, captures, True)
    before = language()
    site.runner(q, k, v, captures, True)
    assert_unchanged(before)


def test_nothing_stays_changed_after_an_exception() -> None:
    before = language()
    with pytest.raises(ZeroDivisionError), triton_interpreter.language_switched_over():
        assert not isinstance(language()["tl.max"], JITFunction)
        raise ZeroDivisionError
    assert_unchanged(before)


def test_kernels_on_two_threads_do_not_mix() -> None:
    results: dict[int, torch.Tensor] = {}

    def work(number: int) -> None:
        out = torch.zeros(64)
        run(row_kernel("doubled", [f32], f32, doubled), torch.full((64,), float(number)), out)
        results[number] = out

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {n: out[0].item() for n, out in results.items()} == {n: 2.0 * n for n in range(4)}


def test_casts_to_bfloat16_round_to_the_nearest_and_keep_nan() -> None:
    special = [0.0, -0.0, 1.9999, 3.3e38, -3.4e38, float("inf"), float("-inf"), float("nan"), 1e-40, 1.00390625]
    x = torch.cat([torch.tensor(special), torch.randn(1000)])
    bits = triton_interpreter.float32_to_bfloat16(x.numpy())
    expected = x.bfloat16()
    values = triton_interpreter.bfloat16_to_float32(bits)
    np.testing.assert_array_equal(values, expected.float().numpy())


def test_the_mend_of_bfloat16_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Triton whose interpreter changes under the mend must be noticed."""
    triton_interpreter.mend_is_verified.__wrapped__()
    monkeypatch.setattr(triton_interpreter, "_mended_methods", dict)
    with pytest.raises(CompileError, match="bfloat16"):
        triton_interpreter.mend_is_verified.__wrapped__()


def test_versions_that_do_not_go_together_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "__version__", "3.6.0")
    monkeypatch.setattr(np, "__version__", "2.4.1")
    with pytest.raises(CompileError, match=r"triton 3\.6\.0 does not work with numpy 2\.4\.1: install numpy < 2\.4"):
        triton_interpreter.check_versions()


def test_the_environment_variable_of_triton_changes_nothing() -> None:
    program = (
        "import torch; from attir.compiler.attention_cases import Case, Shape; from attir.ir.attributes import f32\n"
        "from attir.compiler.kernels import compile_site; from attir.compiler.options import Options\n"
        "case = Case(f32, 16, form='softcap'); q, k, v, c = case.tensors(Shape(queries=5, keys=5))\n"
        "out, _ = compile_site(case.module(), Options(backend='interpret')).runner(q, k, v, c, True)\n"
        "assert (out - case.reference(q, k, v, c)[0]).abs().max() < 1e-5\n"
    )
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_modules_are_kept_under_their_content(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ATTIR_CACHE_DIR", str(tmp_path))
    assert cache_directory() == tmp_path
    first, second = source_file("X = 1\n", "name"), source_file("X = 2\n", "name")
    assert first != second and source_file("X = 1\n", "name") == first
    assert load_module("X = 2\n", "name").X == 2
    assert sorted(p.name for p in first.parent.iterdir() if p.suffix == ".tmp") == []


def test_a_cache_that_cannot_be_written_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("ATTIR_CACHE_DIR", str(blocked))
    with pytest.raises(CompileError, match=r"cannot write a kernel to the cache .* set ATTIR_CACHE_DIR"):
        source_file("X = 3\n", "name")
