"""What a model does when PyTorch runs it as it is: its attentions counted, its scores falsified, in float64 throughout.

Knows nothing of attir: the operators that run say which softmax stands between two products.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import Any, cast

import torch
from torch.utils._python_dispatch import TorchDispatchMode

aten: Any = torch.ops.aten
PRODUCTS = {aten.mm, aten.bmm, aten.addmm, aten.baddbmm}
ENDS = {aten.convolution}
"""What makes a tensor of its own of what it reads, as a product with a parameter does."""
SOFTMAXES = {aten._softmax, aten._safe_softmax}
FUSED = {
    aten._scaled_dot_product_flash_attention_for_cpu,
    aten._scaled_dot_product_flash_attention,
    aten._scaled_dot_product_efficient_attention,
    aten._scaled_dot_product_fused_attention_overrideable,
}
PARAMETER, SCORES = "parameter", "scores"
NARROW = (torch.float32, torch.bfloat16, torch.float16)


class Attentions(TorchDispatchMode):
    """Counts softmaxes between two products, and attentions that are one operator; multiplies scores by `factor`.

    A product of two tensors of which neither is a parameter gives scores; what is computed from scores,
    by anything but a product with a parameter or a convolution, is scores too. A softmax of scores gives
    weights, and these are an attention's where they enter a product with such a tensor. The router of a
    mixture of experts, whose logits come from a parameter, is therefore none. A softmax that is spelt
    out as exponentials and sums is not seen.
    """

    def __init__(self, model: torch.nn.Module, factor: float = 1.0) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]
        self.factor = factor
        self.marks: dict[int, frozenset[object]] = {}
        self.alive: list[object] = []
        self.operators = 0
        self.softmaxes = 0
        self.weighed: set[object] = set()
        for tensor in (*model.parameters(), *model.buffers()):
            self._mark(tensor, frozenset({PARAMETER}))

    @property
    def count(self) -> int:
        return self.operators + len(self.weighed)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kind = func.overloadpacket
        marks = [self.marks.get(id(x), frozenset()) for x in tensors((args, kwargs))]
        scores = any(SCORES in m for m in marks)
        if kind in FUSED or (kind in SOFTMAXES and scores):
            first = args[0] if self.factor == 1.0 else args[0] * self.factor
            args = (first, *args[1:])
        out = func(*args, **(kwargs or {}))
        self.operators += kind in FUSED
        mark = self._result(kind, marks, scores=scores)
        for x in tensors(out):
            self._mark(x, mark | self.marks.get(id(x), frozenset()))
        return out

    def _result(self, kind: Any, marks: list[frozenset[object]], *, scores: bool) -> frozenset[object]:
        """The marks of what an operator makes of operands with `marks`."""
        if kind in SOFTMAXES:
            self.softmaxes += 1
            return frozenset({self.softmaxes}) if scores else frozenset()
        every = frozenset[object]().union(*marks)
        if kind in ENDS:
            return frozenset()
        if kind in PRODUCTS:
            if any(PARAMETER in m for m in marks[-2:]):
                return frozenset()
            self.weighed |= {m for m in every if isinstance(m, int)}
            return frozenset({SCORES})
        # Whatever is made of parameters alone, such as the weights of chosen experts, stands for one.
        return every if marks and all(PARAMETER in m for m in marks) else every - {PARAMETER}

    def _mark(self, tensor: torch.Tensor, mark: frozenset[object]) -> None:
        self.marks[id(tensor)] = mark
        self.alive.append(tensor)


class Wide(TorchDispatchMode):
    """Lets a model in float64 convert nothing to a narrower type, and make no constant of one."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("dtype") in NARROW:
            kwargs["dtype"] = torch.float64
        return func(*args, **kwargs)


def tensors(tree: Any) -> Iterator[torch.Tensor]:
    """The tensors in arguments or results of an operator."""
    if isinstance(tree, torch.Tensor):
        yield tree
    elif isinstance(tree, Mapping):
        yield from tensors(tuple(cast("Mapping[Any, Any]", tree).values()))
    elif isinstance(tree, list | tuple):
        for item in cast("Iterable[Any]", tree):
            yield from tensors(item)


def results(output: Any) -> list[torch.Tensor]:
    """The real tensors in what a model returns, also in the outputs of its parts."""
    return [x for x in _nested(output) if x.is_floating_point()]


def _nested(tree: Any) -> Iterator[torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        yield tree
        return
    if isinstance(tree, Mapping):
        tree = tuple(cast("Mapping[Any, Any]", tree).values())
    elif dataclasses.is_dataclass(tree):
        tree = tuple(vars(tree).values())
    if isinstance(tree, list | tuple):
        for item in cast("Iterable[Any]", tree):
            yield from _nested(item)


def run(model: Any, inputs: Mapping[str, torch.Tensor], factor: float = 1.0) -> tuple[list[torch.Tensor], int]:
    """The results of a model with its scores multiplied by `factor`, and how many attentions it ran."""
    with torch.no_grad(), Attentions(model, factor) as seen:
        output = results(model(**inputs))
    return output, seen.count


def run_wide(model: Any, inputs: Mapping[str, torch.Tensor], factor: float = 1.0) -> list[torch.Tensor]:
    """The same in float64."""
    wide = copy.deepcopy(model).double()
    with _default_dtype(), Wide():
        return run(wide, in_dtype(inputs, torch.float64), factor)[0]


def in_dtype(inputs: Mapping[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in inputs.items()}


@contextlib.contextmanager
def _default_dtype() -> Generator[None]:
    """Constants are float64 too."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
