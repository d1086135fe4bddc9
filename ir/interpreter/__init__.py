"""The reference interpreter: numpy semantics for every op of every level, the semantics of record.

With `precise`, every float is computed and stored in float64 whatever its type. Otherwise the
result of each op is rounded to its type once; a bf16 is held as the float32 of the same value.
"""

from __future__ import annotations

from .machine import Interpreter, interpret

__all__ = ["Interpreter", "interpret"]
