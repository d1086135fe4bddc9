"""Says what a user should know but need not act on, once in a process."""

from __future__ import annotations

import warnings
from functools import cache


@cache
def warn_once(text: str) -> None:
    """A Python warning, the first time that there is reason for it in this process."""
    warnings.warn(f"attir: {text}", UserWarning, stacklevel=2)
