"""A small native kernel that shows who ran what: threads take numbers from a counter and write them down."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable

from attir.compiler.native_threads import NativeFunction

# The block: the counter, how many numbers, where to write them.
COUNT = """
func.func @count(%block: !llvm.ptr) {
  %one = arith.constant 1 : i64
  %size_at = llvm.getelementptr %block[1] : (!llvm.ptr) -> !llvm.ptr, i64
  %size = llvm.load %size_at : !llvm.ptr -> i64
  %out_at = llvm.getelementptr %block[2] : (!llvm.ptr) -> !llvm.ptr, i64
  %out_address = llvm.load %out_at : !llvm.ptr -> i64
  %out = llvm.inttoptr %out_address : i64 to !llvm.ptr
  scf.while : () -> () {
    %number = llvm.atomicrmw add %block, %one monotonic : !llvm.ptr, i64
    %more = arith.cmpi slt, %number, %size : i64
    scf.if %more {
      %at = llvm.getelementptr %out[%number] : (!llvm.ptr, i64) -> !llvm.ptr, i64
      llvm.store %number, %at : i64, !llvm.ptr
    }
    scf.condition(%more)
  } do {
    scf.yield
  }
  return
}
"""


def numbers(run: Callable[[int], None], size: int = 100) -> list[int]:
    """What one call of the kernel writes; range(size) where every number was taken once."""
    out = (ctypes.c_int64 * size)(*[-1] * size)
    block = (ctypes.c_int64 * 3)(0, size, ctypes.addressof(out))
    run(ctypes.addressof(block))
    return list(out)


def counts(function: NativeFunction, threads: int, size: int = 100) -> bool:
    return numbers(lambda block: function.run(block, threads), size) == list(range(size))


def succeeds_in_a_fork(work: Callable[[], bool], seconds: float = 20) -> bool:
    """Whether `work` gives True in a forked child, within `seconds`."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if work() else 1
        finally:
            os._exit(code)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False
