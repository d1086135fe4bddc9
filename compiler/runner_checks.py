"""What every kernel demands of the tensors it is called on; knows nothing of how it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ..ir.attributes import TensorType, Type
from ..ir.diagnostics import error

_DTYPES: dict[str, torch.dtype] = {
    "f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32, "f64": torch.float64,
    "i1": torch.bool, "i8": torch.int8, "i16": torch.int16, "i32": torch.int32, "i64": torch.int64, "ui8": torch.uint8,
    "f8E4M3FN": torch.float8_e4m3fn, "f8E5M2": torch.float8_e5m2,
}  # fmt: skip


def torch_dtype(type_: Type) -> torch.dtype:
    """The dtype of tensors that hold `type_`; CompileError where kernels cannot read it."""
    if str(type_) not in _DTYPES:
        raise error(f"kernels cannot read tensors of {type_}")
    return _DTYPES[str(type_)]


@dataclass(frozen=True)
class Inputs:
    """The inputs of a kernel by name and type, q, k and v first; `group` query heads share a key head.

    `value_rows` says how many rows v has for so many keys: fewer where tokens are packed.
    """

    names: tuple[str, ...]
    types: tuple[TensorType, ...]
    group: int
    value_rows: Callable[[int], int] = int

    def check(self, tensors: Sequence[torch.Tensor]) -> None:
        """Refuse what the kernel would misread, in words: other types, or sizes that do not agree."""
        if len(tensors) != len(self.types):
            raise error(f"the kernel takes {len(self.types)} tensors, but got {len(tensors)}")
        for name, tensor, type_ in zip(self.names, tensors, self.types, strict=True):
            problem = _mismatch(tensor, type_, tensors[0].device)
            if problem is not None:
                raise error(f"{name} {problem}")

    def check_sizes(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
        """Refuse sizes that do not agree with each other."""
        problem = _size_problem(q, k, v, self.group, self.value_rows)
        if problem is not None:
            raise error(problem)


def _mismatch(tensor: torch.Tensor, type_: TensorType, device: torch.device) -> str | None:
    if tensor.device != device:
        return f"is on {tensor.device}, but q is on {device}"
    if tensor.dtype != torch_dtype(type_.element):
        return f"must be {torch_dtype(type_.element)}, but is {tensor.dtype}"
    wanted = [d if isinstance(d, int) else None for d in type_.shape]
    if len(wanted) != tensor.dim() or any(w not in (None, a) for w, a in zip(wanted, tensor.shape, strict=True)):
        shape = ", ".join("any" if w is None else str(w) for w in wanted)
        return f"must have shape ({shape}), but has {tuple(tensor.shape)}"
    return None


def _size_problem(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, group: int, value_rows: Callable[[int], int]
) -> str | None:
    if (*k.shape[:2], value_rows(k.shape[2])) != tuple(v.shape[:3]):
        return f"k and v must agree in batch, heads and length, but have {tuple(k.shape)} and {tuple(v.shape)}"
    if q.shape[0] != k.shape[0]:
        return f"q and k must have one batch size, but have {q.shape[0]} and {k.shape[0]}"
    if q.shape[1] != k.shape[1] * group:
        return f"q must have {group} heads for each of k's, but they have {q.shape[1]} and {k.shape[1]}"
    return None
