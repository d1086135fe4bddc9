"""MLIR text becomes object code; what goes wrong is said in words."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Sequence

import pytest
from unit.compiler.counting_kernel import COUNT, numbers, succeeds_in_a_fork

from attir.compiler.native_compiler import compile_object, disassemble
from attir.compiler.native_object import load_object
from attir.compiler.native_threads import NativeFunction
from attir.ir.diagnostics import CompileError

# One of each kind of op that emitted kernels are made of; %a has 8 numbers, which are replaced.
EVERYTHING = """
func.func @everything(%a: !llvm.ptr) {
  %c0 = arith.constant 0 : i64
  %c1 = arith.constant 1 : i64
  %c3 = arith.constant 3 : i64
  %zero = arith.constant dense<0.0> : vector<8xf32>
  %five = arith.constant dense<5> : vector<8xi32>
  %lanes = arith.constant dense<[0, 1, 2, 3, 4, 5, 6, 7]> : vector<8xi32>
  %first_five = arith.cmpi slt, %lanes, %five : vector<8xi32>
  %x = llvm.load %a {alignment = 4 : i64} : !llvm.ptr -> vector<8xf32>
  %swapped = vector.shuffle %x, %x [1, 0, 3, 2, 5, 4, 7, 6] : vector<8xf32>, vector<8xf32>
  %scalar = vector.extract %x[3] : f32 from vector<8xf32>
  %spread = vector.broadcast %scalar : f32 to vector<8xf32>
  %fused = math.fma %x, %swapped, %spread : vector<8xf32>
  %masked = llvm.intr.masked.load %a, %first_five, %zero {alignment = 4 : i32}
    : (!llvm.ptr, vector<8xi1>, vector<8xf32>) -> vector<8xf32>
  %wide = arith.extsi %lanes : vector<8xi32> to vector<8xi64>
  %places = llvm.getelementptr %a[%wide] : (!llvm.ptr, vector<8xi64>) -> vector<8x!llvm.ptr>, f32
  %gathered = llvm.intr.masked.gather %places, %first_five, %zero {alignment = 4 : i32}
    : (vector<8x!llvm.ptr>, vector<8xi1>, vector<8xf32>) -> vector<8xf32>
  %half = arith.truncf %gathered : vector<8xf32> to vector<8xf16>
  %back = arith.extf %half : vector<8xf16> to vector<8xf32>
  %both = arith.addf %masked, %back : vector<8xf32>
  %negative = arith.negf %both : vector<8xf32>
  %size = llvm.call_intrinsic "llvm.fabs.v8f32"(%negative) : (vector<8xf32>) -> vector<8xf32>
  %repeated = scf.for %i = %c0 to %c3 step %c1 iter_args(%sum = %fused) -> (vector<8xf32>) : i64 {
    %even = arith.cmpi ne, %i, %c1 : i64
    %next = scf.if %even -> (vector<8xf32>) {
      %more = arith.addf %sum, %size : vector<8xf32>
      scf.yield %more : vector<8xf32>
    } else {
      scf.yield %sum : vector<8xf32>
    }
    scf.yield %next : vector<8xf32>
  }
  %total = vector.reduction <add>, %x : vector<8xf32> into f32
  %result = vector.insert %total, %repeated [7] : f32 into vector<8xf32>
  llvm.intr.masked.store %result, %a, %first_five {alignment = 4 : i32} : vector<8xf32>, vector<8xi1> into !llvm.ptr
  %last = llvm.getelementptr %a[7] : (!llvm.ptr) -> !llvm.ptr, f32
  llvm.store %total, %last : f32, !llvm.ptr
  return
}
"""


def everything(x: Sequence[float]) -> list[float]:
    five = [x[lane] * x[lane ^ 1] + x[3] + 4 * abs(x[lane]) for lane in range(5)]
    return [*five, x[5], x[6], sum(x)]


def compile_error(text: str) -> str:
    with pytest.raises(CompileError) as raised:
        compile_object(text)
    return raised.value.diagnostics[0].message


def test_every_kind_of_op_compiles_and_computes() -> None:
    loaded = load_object(compile_object(EVERYTHING))
    values = [1.0, -2.0, 3.0, 0.5, -4.0, 6.0, 7.0, -8.0]
    memory = (ctypes.c_float * 8)(*values)
    NativeFunction(loaded.address("everything"), loaded).run(ctypes.addressof(memory), 1)
    assert list(memory) == everything(values)


def test_equal_text_gives_equal_code() -> None:
    assert compile_object(COUNT) == compile_object(COUNT)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("func.func @f() {", "expected operation name in quotes"),
        ("func.func @f() { %0 = there.is_none }", "Dialect `there' not found for custom op"),
        ("func.func @f(%a: i64) -> i32 { return %a : i64 }", "type of return operand 0"),
        ("func.func @f(%a: tensor<4xf32>) { return }", "cannot be converted to LLVM"),
    ],
)
def test_the_words_of_mlir_are_passed_on(text: str, words: str) -> None:
    message = compile_error(text)
    assert message.startswith("MLIR rejects a generated kernel: ")
    assert words in message


def test_without_torch_mlir_what_to_install_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_mlir.ir", None)
    message = compile_error(COUNT)
    assert "pip install torch-mlir" in message
    assert 'backend="interpret" runs without it' in message


def test_several_threads_may_compile() -> None:
    built: list[bytes] = []
    threads = [threading.Thread(target=lambda: built.append(compile_object(COUNT))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 4
    assert len(set(built)) == 1


def test_a_child_forked_while_another_thread_compiles_can_compile() -> None:
    stop = threading.Event()

    def compile_until_told() -> None:
        while not stop.is_set():
            compile_object(COUNT)

    def compiles() -> bool:
        loaded = load_object(compile_object(COUNT))
        return numbers(NativeFunction(loaded.address("count"), loaded).call) == list(range(100))

    thread = threading.Thread(target=compile_until_told)
    thread.start()
    try:
        assert all(succeeds_in_a_fork(compiles) for _ in range(5))
    finally:
        stop.set()
        thread.join()


def test_assembly_has_names_labels_and_constants() -> None:
    text = disassemble(compile_object(EVERYTHING))
    lines = [line.strip() for line in text.splitlines()]
    assert lines[0] == "everything:"
    assert any(line.startswith("vfmadd") and "ymm" in line for line in lines)
    assert any("# .rodata" in line or "# .lrodata" in line for line in lines)
    labels = {line[:-1] for line in lines if line.startswith(".L")}
    targets = {line.split()[1] for line in lines if line.startswith("j")}
    assert labels
    assert targets <= labels


def test_the_engines_wrappers_are_left_out_of_assembly() -> None:
    assert [line for line in disassemble(compile_object(COUNT)).splitlines() if not line.startswith((" ", "."))] == [
        "count:"
    ]


def test_without_capstone_what_to_install_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "capstone", None)
    with pytest.raises(CompileError, match="pip install capstone"):
        disassemble(compile_object(COUNT))


def test_what_is_no_object_is_not_disassembled() -> None:
    with pytest.raises(CompileError, match="cannot disassemble: not a relocatable x86-64 ELF object"):
        disassemble(b"text")
