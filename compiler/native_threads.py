"""Runs machine code on one thread or several: torch's own OpenMP threads, or Python's where those cannot be used."""

from __future__ import annotations

import ctypes
import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

# void f(int64_t *), and GOMP_parallel(f, block, threads, flags). ctypes lets other Python threads run meanwhile.
_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_PARALLEL = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)

# The kernel's flag of a process that was forked and has not executed another program (linux/sched.h).
_FORKED_WITHOUT_EXEC = 0x40
_IMPORTED_IN = os.getpid()

Team = Callable[["NativeFunction", int, int], None]


class NativeFunction:
    """Machine code `void f(int64_t *)` that any number of threads may run on one block at once.

    `owner` is whatever keeps the code in memory. Safe to run from several Python threads, each with
    a block of its own, and in processes forked from this one.
    """

    __slots__ = ("_owner", "address", "call")

    def __init__(self, address: int, owner: object = None) -> None:
        self.address = address
        self.call: Callable[[int], None] = _FUNCTION(address)
        self._owner = owner

    def run(self, block: int, threads: int) -> None:
        """Run on the block at address `block` with at most `threads` threads; all are done at the return."""
        if threads <= 1:
            self.call(block)
        else:
            _team()(self, block, threads)


_teams: dict[int, Team] = {}  # by the process they belong to: threads do not survive a fork
os.register_at_fork(after_in_child=_teams.clear)


def _team() -> Team:
    if (team := _teams.get(os.getpid())) is not None:
        return team
    _teams[os.getpid()] = team = new_team()
    return team


def new_team() -> Team:
    """OpenMP's threads where they are torch's and this process is not a fork, else a pool of Python's.

    In a fork libgomp waits forever for the threads that its parent had.
    """
    if not is_forked():
        for path in gomp_libraries():
            try:
                parallel = gomp_parallel(path)
            except (OSError, AttributeError):
                continue
            return lambda function, block, threads: parallel(function.address, block, threads, 0)
    return PythonThreads().run


def is_forked() -> bool:
    """Whether this process is a copy of another one, made without starting a program."""
    try:
        # The name of the program, in parentheses, may contain anything.
        fields = Path("/proc/self/stat").read_text(errors="replace").rpartition(")")[2].split()
        return os.getpid() != _IMPORTED_IN or bool(int(fields[6]) & _FORKED_WITHOUT_EXEC)
    except (OSError, ValueError, IndexError):
        return os.getpid() != _IMPORTED_IN


def gomp_libraries() -> Iterator[str]:
    """Where libgomp is: in this process already, torch's first, else in torch's folders."""
    try:
        lines = Path("/proc/self/maps").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    loaded = {line[line.index("/") :] for line in lines if "/libgomp" in line}
    yield from sorted(loaded, key=lambda path: ("/torch" not in path, path))
    spec = importlib.util.find_spec("torch")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for library in (Path(folder) / "lib", Path(f"{folder}.libs")):
            yield from map(str, sorted(library.glob("libgomp*.so*")))


def gomp_parallel(path: str) -> Callable[[int, int, int, int], None]:
    """The function of the libgomp at `path` that runs one function on several threads."""
    library = ctypes.CDLL(path)
    return _PARALLEL(ctypes.cast(library.GOMP_parallel, ctypes.c_void_p).value or 0)


class PythonThreads:
    """A pool for as many threads as the machine has processors; they wait between calls."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max(os.cpu_count() or 1, 2), thread_name_prefix="attir")

    def run(self, function: NativeFunction, block: int, threads: int) -> None:
        """Run `function` here and on up to `threads` - 1 helpers."""
        helpers: list[Future[None]] = []
        try:
            for _ in range(threads - 1):
                helpers.append(self._pool.submit(function.call, block))
        except RuntimeError:
            pass  # the interpreter is shutting down: those there are will do
        try:
            function.call(block)
        finally:
            _finish(helpers)


def _finish(helpers: Sequence[Future[None]]) -> None:
    """Wait until no helper uses the block; an interrupt is raised afterwards, when its memory may go."""
    # Nothing is left to do for those that have not started.
    running = [helper for helper in helpers if not helper.cancel()]
    interrupt: BaseException | None = None
    while True:
        try:
            wait(running)
            break
        except BaseException as problem:
            interrupt = problem
    if interrupt is not None:
        raise interrupt
