"""Kernels run on any number of threads, from any number of threads, before and after a fork."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Iterator

import pytest
from unit.compiler.counting_kernel import COUNT, counts, numbers, succeeds_in_a_fork

from attir.compiler import native_threads
from attir.compiler.native_compiler import compile_object
from attir.compiler.native_object import load_object
from attir.compiler.native_threads import NativeFunction, PythonThreads, gomp_libraries, gomp_parallel, is_forked


@pytest.fixture(scope="module")
def function() -> NativeFunction:
    loaded = load_object(compile_object(COUNT))
    return NativeFunction(loaded.address("count"), loaded)


@pytest.fixture
def pool() -> PythonThreads:
    return PythonThreads()


@pytest.mark.parametrize("threads", [0, 1, 2, 3, 16])
@pytest.mark.parametrize("size", [0, 1, 1000])
def test_every_piece_of_work_is_done_once(function: NativeFunction, threads: int, size: int) -> None:
    assert counts(function, threads, size)


@pytest.mark.parametrize("threads", [1, 2, 3, 16])
def test_threads_of_python_do_the_same(function: NativeFunction, pool: PythonThreads, threads: int) -> None:
    assert pooled(function, pool, threads)


def pooled(function: NativeFunction, pool: PythonThreads, threads: int) -> bool:
    return numbers(lambda block: pool.run(function, block, threads), 1000) == list(range(1000))


def test_this_process_uses_the_threads_of_torch() -> None:
    assert not is_forked()
    libraries = list(gomp_libraries())
    assert libraries
    assert "/torch" in libraries[0]
    gomp_parallel(libraries[0])


def test_without_libgomp_python_runs_the_threads(function: NativeFunction, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_libraries() -> Iterator[str]:
        yield "/nowhere/libgomp.so.1"

    monkeypatch.setattr(native_threads, "gomp_libraries", no_libraries)
    monkeypatch.setattr(native_threads, "_teams", {})
    assert counts(function, 4)


@pytest.mark.parametrize("threads", [1, 2])
def test_many_threads_may_call_at_once(function: NativeFunction, threads: int) -> None:
    wrong: list[int] = []

    def call() -> None:
        wrong.extend(turn for turn in range(150) if not counts(function, threads))

    callers = [threading.Thread(target=call) for _ in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert wrong == []


def test_the_pool_may_be_used_by_many_threads(function: NativeFunction, pool: PythonThreads) -> None:
    results: list[bool] = []

    def call() -> None:
        results.append(all(pooled(function, pool, 3) for _ in range(20)))

    callers = [threading.Thread(target=call) for _ in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert results == [True] * 8


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_a_forked_child_runs_kernels(function: NativeFunction, threads: int) -> None:
    assert counts(function, 2)  # the parent's threads exist, and will not in the child
    assert succeeds_in_a_fork(lambda: counts(function, threads) and counts(function, threads))
    assert counts(function, 2)


def test_a_child_of_a_child_runs_kernels(function: NativeFunction) -> None:
    assert counts(function, 2)
    assert succeeds_in_a_fork(lambda: counts(function, 2) and succeeds_in_a_fork(lambda: counts(function, 2)))


def test_a_child_runs_kernels_while_its_parents_threads_do(function: NativeFunction) -> None:
    stop = threading.Event()

    def call_until_told() -> None:
        while not stop.is_set():
            counts(function, 2)

    callers = [threading.Thread(target=call_until_told) for _ in range(2)]
    for caller in callers:
        caller.start()
    try:
        assert all(succeeds_in_a_fork(lambda: counts(function, 2)) for _ in range(10))
    finally:
        stop.set()
        for caller in callers:
            caller.join()


def test_a_fork_is_known_even_where_the_module_is_imported_after_it() -> None:
    def knows() -> bool:
        native_threads.__dict__["_IMPORTED_IN"] = os.getpid()
        return is_forked()

    assert succeeds_in_a_fork(knows)


def test_multiprocessing_runs_kernels(function: NativeFunction) -> None:
    assert counts(function, 2)
    context = multiprocessing.get_context("fork")
    done = context.Event()
    process = context.Process(target=lambda: done.set() if counts(function, 2) else None)
    process.start()
    process.join(20)
    assert process.exitcode == 0
    assert done.is_set()


def test_an_interrupt_waits_for_the_helpers(function: NativeFunction) -> None:
    """The block's memory may go as soon as the call has returned or raised."""
    ended = threading.Event()

    slow = NativeFunction(function.address)
    first = threading.get_ident()

    def call(block: int) -> None:
        if threading.get_ident() == first:
            time.sleep(0.05)
            raise KeyboardInterrupt
        time.sleep(0.2)
        ended.set()

    slow.call = call  # in place of the machine code
    with pytest.raises(KeyboardInterrupt):
        PythonThreads().run(slow, 0, 2)
    assert ended.is_set()
