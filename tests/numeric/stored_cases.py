"""Attentions over operands in few bits: their IR, their tensors, and what they mean in float64."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from attir.compiler.storage_math import dequantize, quantize
from attir.compiler.torch_types import dtype_of_type
from attir.ir.attributes import FloatAttr, FloatType, FunctionType, IntegerAttr, StringAttr, Symbol, TensorType, f32, i1
from attir.ir.builder import Builder
from attir.ir.core import Block, Operation, Region, Value
from attir.ir.dialects.arith import AddIOp, CmpIOp
from attir.ir.dialects.attn import AttentionOp, YieldOp, region_block
from attir.ir.dialects.attn_storage import DequantizeOp
from attir.ir.dialects.builtin import ModuleOp
from attir.ir.dialects.func import FuncOp, ReturnOp
from attir.ir.storage import Storage

REGION_OPERANDS = ("query", "key", "value")


@dataclass(frozen=True)
class StoredCase:
    """q (1, group * heads, m, d), k and v (1, heads, n, d) in the storages given (None: as they are)."""

    m: int = 33
    n: int = 70
    d: int = 64
    heads: int = 2
    group: int = 1
    batch: int = 1
    dtype: FloatType = f32
    causal: bool = False
    scale: float = 0.125
    storages: dict[str, Storage] = field(default_factory=dict[str, Storage])
    magnitude: float = 1.0

    # --- tensors

    def tensors(self, seed: int = 0) -> list[torch.Tensor]:
        """q, k and v before they are stored."""
        made = torch.Generator().manual_seed(seed)
        rows = [(self.heads * self.group, self.m), (self.heads, self.n), (self.heads, self.n)]
        shapes = [(self.batch, *sizes, self.d) for sizes in rows]
        dtype = dtype_of_type(self.dtype)
        return [(torch.randn(s, generator=made, dtype=torch.float64) * self.magnitude).to(dtype) for s in shapes]

    def stored(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        """The function's arguments: q, k, v as they lie in memory, then scales and zeros in their order."""
        operands, scales = list[torch.Tensor](), list[torch.Tensor]()
        for name, x in zip(REGION_OPERANDS, tensors, strict=True):
            storage = self.storages.get(name)
            if storage is None:
                operands.append(x)
                continue
            codes, *found = quantize(x, storage, torch.float32)
            operands.append(codes)
            scales += found
        return [*operands, *scales]

    def exact(self, tensors: list[torch.Tensor]) -> torch.Tensor:
        """Attention over what the stored operands mean, in float64."""
        q, k, v = (x.double() for x in self.meant(tensors))
        k, v = (x.repeat_interleave(self.group, 1) for x in (k, v))
        scores = q @ k.transpose(-1, -2) * self.scale
        if self.causal:
            seen = torch.ones(self.m, self.n, dtype=torch.bool).tril(self.n - self.m)
            scores = scores.masked_fill(~seen, -torch.inf)
        return torch.softmax(scores, -1) @ v

    def meant(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        """q, k and v with what storing them loses."""
        found: list[torch.Tensor] = []
        for name, x in zip(REGION_OPERANDS, tensors, strict=True):
            storage = self.storages.get(name)
            if storage is not None:
                codes, *scales = quantize(x, storage, torch.float32)
                x = dequantize(codes, storage, *scales, tokens=x.shape[2], dtype=torch.float64)
            found.append(x)
        return found

    # --- the IR

    def module(self) -> Operation:
        """`func.func @attention(q, k, v, scales...) -> out` around one attention."""
        types = self._operand_types()
        captures = [(f"{name}_{what}", type_) for name in REGION_OPERANDS for what, type_ in self._scale_types(name)]
        block = Block.with_arguments([*types, *(t for _, t in captures)], ["q", "k", "v", *(n for n, _ in captures)])
        builder = Builder(block)
        q_shape = (Symbol("B"), Symbol("H"), Symbol("M"))
        out, lse = TensorType((*q_shape, self.d), self.dtype), TensorType(q_shape, f32)
        attention = builder.create(
            AttentionOp,
            block.arguments,
            [out, lse],
            {"scale": FloatAttr(self.scale, f32), "group": IntegerAttr(self.group)},
            [Region(), self._mask(block.arguments[3:])],
        )
        for name in REGION_OPERANDS:
            if name in self.storages:
                attention.set_region(name, self._region(name, attention, [n for n, _ in captures]))
        builder.create(ReturnOp, [attention.out])
        properties = {
            "sym_name": StringAttr("attention"),
            "function_type": FunctionType(tuple(a.type for a in block.arguments), (out,)),
        }
        module = ModuleOp.create((), (), {}, [Region([Block()])]).operation
        module.regions[0].block.append(FuncOp.create((), (), properties, [Region([block])]).operation)
        return module

    def _operand_types(self) -> list[TensorType]:
        found: list[TensorType] = []
        for name, (h, n) in zip(REGION_OPERANDS, (("H", "M"), ("K", "N"), ("K", "N")), strict=True):
            storage = self.storages.get(name)
            tokens = "R" if storage is not None and storage.axis == "tokens" else n
            width, element = (self.d, self.dtype) if storage is None else (storage.stored_width, storage.element)
            found.append(TensorType((Symbol("B"), Symbol(h), Symbol(tokens), width), element))
        return found

    def _scale_types(self, name: str) -> list[tuple[str, TensorType]]:
        storage = self.storages.get(name)
        if storage is None:
            return []
        heads = [Symbol("B"), Symbol("H" if name == "query" else "K")] if storage.heads else [1, 1]
        channels = storage.scale_sizes(1)[1]
        groups = Symbol(f"G_{name}") if storage.tokens else 1
        type_ = TensorType((*heads, groups, channels), f32)
        return [("scale", type_), *([("zero", type_)] if storage.zero else [])]

    def _region(self, name: str, attention: AttentionOp, names: list[str]) -> Region:
        block = region_block(name, attention.captures, attention.operand(name).type)
        captured = dict(zip(names, block.arguments[5:], strict=True))
        builder = Builder(block)
        scales = [captured[f"{name}_{what}"] for what, _ in self._scale_types(name)]
        operands: list[Value] = [block.arguments[4], *block.arguments[:4], *scales]
        read = builder.create(DequantizeOp, operands, [f32], {"storage": self.storages[name].to_attr()})
        builder.create(YieldOp, [read.out])
        return Region([block])

    def _mask(self, captures: list[Value]) -> Region:
        if not self.causal:
            return Region()
        block = region_block("mask", captures)
        builder, (_, _, m, n) = Builder(block), block.arguments[:4]
        last = builder.binary(AddIOp, m, builder.index(self.n - self.m))
        kept = builder.create(CmpIOp, [n, last], [i1], {"predicate": CmpIOp.predicate_attr("sle")}).out
        builder.create(YieldOp, [kept])
        return Region([block])


def integers(bits: int, **changes: object) -> Storage:
    """Codes of 64 channels, with a zero where there are too few bits for a sign."""
    return Storage(**{"bits": bits, "zero": bits == 1, "width": 64, **changes})  # pyright: ignore[reportArgumentType]
