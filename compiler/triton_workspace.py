"""Memory on a GPU that kernels use between each other: kept and reused, so that a call allocates only its results.

There is one workspace for each device and stream. Kernels of one stream run one after the other, so
what one call leaves behind the next may overwrite. Calls from several threads on one stream must not
mix their kernels: who starts more than one holds the workspace's lock meanwhile.

While a CUDA graph is captured nothing kept is used: a graph runs later, on any stream and beside
anything, and remembers addresses. Memory then comes from PyTorch's allocator, call by call, which takes
it from the pool of that graph: it is reused by what is captured after, and lives as long as the graph.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch


@dataclass(eq=False)
class Workspace:
    """The memory of one stream of one device; it grows to what the largest call needs, and stays."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    _memory: torch.Tensor | None = None

    def take(self, size: int, device: torch.device) -> torch.Tensor:
        """At least `size` bytes; call it with the stream in use.

        Memory that is too small goes back to PyTorch's allocator, which hands it out again only to
        what comes later on this stream.
        """
        if self._memory is None or self._memory.numel() < size:
            self._memory = None
            self._memory = torch.empty(size, dtype=torch.uint8, device=device)
        return self._memory


_workspaces: defaultdict[tuple[int, int, str], Workspace] = defaultdict(Workspace)


def workspace(device: int, stream: int, purpose: str) -> Workspace:
    """The workspace of a stream, one for each purpose: what lies in them is needed at the same time."""
    return _workspaces[device, stream, purpose]


def is_capturing() -> bool:
    """Whether what is started now on the current stream becomes part of a CUDA graph."""
    return bool(cast(Any, torch).cuda.is_current_stream_capturing())


@contextmanager
def descriptor_memory(allocate: Callable[[int, int, int | None], torch.Tensor]) -> Generator[None]:
    """Let kernels that make tensor descriptors themselves keep them in memory from `allocate`.

    Triton asks an allocator that belongs to the context of the caller; it gets that one back.
    """
    from triton.runtime import _allocation

    allocator: Any = cast(Any, _allocation)._allocator
    token = allocator.set(allocate)
    try:
        yield
    finally:
        allocator.reset(token)
