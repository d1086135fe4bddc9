"""sparsify: an attention sees only the blocks of keys that an estimate finds important. Lossy; never by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from ..ir.attributes import Attribute, DictAttr, FloatAttr, IntegerAttr, StringAttr, Symbol, TensorType, f64, i1
from ..ir.builder import Builder
from ..ir.core import Block, Operation, Region, Value
from ..ir.diagnostics import error, op_error
from ..ir.dialects.arith import AndIOp, DivSIOp
from ..ir.dialects.attn import AttentionOp, SelectOp, YieldOp, region_block
from ..ir.dialects.tensor import ExtractOp
from .manager import Pass, PassContext


@dataclass(frozen=True)
class Sparsify(Pass):
    """Put an `attn.select` in front of each attention, and keep only what it chooses.

        attention(q, k, v) {mask}  →  blocks = select(q, k) {mask}
                                      attention(q, k, v, blocks) {mask ∧ blocks[b, h / group, m / rows, n / block]}

    `parameters` are those of `attn.select` as name=value. `tensors` says how many of the last arguments of
    the function around it the estimator is given.
    """

    name: ClassVar[str] = "sparsify"
    estimator: str
    rows: int = 64
    block: int = 64
    parameters: tuple[str, ...] = ()
    tensors: int = 0

    def run(self, module: Operation, ctx: PassContext) -> None:
        found = [attention for op in module.walk() if (attention := AttentionOp.match(op)) is not None]
        for number, attention in enumerate(found):
            self._sparsify(attention, str(number or ""))
            ctx.statistics["attentions sparsified"] += 1

    def _sparsify(self, attention: AttentionOp, number: str) -> None:
        op = attention.operation
        for name in ("query", "key"):
            if not attention.region(name).empty:
                op_error(op, f"estimates read q and k as they enter the product, but region '{name}' changes them")
        holder = op.parent_op
        own = holder.regions[0].block.arguments[-self.tensors :] if holder is not None and self.tensors else []
        blocks = self._select(attention, own, number).blocks
        blocks.name_hint = "blocks"
        self._restrict(attention, blocks)

    def _select(self, attention: AttentionOp, own: Sequence[Value], number: str) -> SelectOp:
        """The choice for one attention; the `number` of each is in its symbols, since lengths may differ."""
        k = attention.shapes[1]
        type_ = TensorType((*k.shape[:2], Symbol(f"MB{number}"), Symbol(f"NB{number}")), i1)
        operands = [attention.q, attention.k, *attention.captures, *own]
        mask = Region()
        if not attention.mask.empty:
            mask = attention.mask.clone({})
            for tensor in own:
                mask.block.add_argument(tensor.type, tensor.name_hint)
        properties: dict[str, Attribute] = {
            "estimator": StringAttr(self.estimator), "parameters": DictAttr.of(self._parameters()),
            "scale": attention.scale, "group": attention.group, "given": IntegerAttr(len(own)),
            "block_m": IntegerAttr(self.rows), "block_n": IntegerAttr(self.block),
        }  # fmt: skip
        return Builder.before(attention.operation).create(SelectOp, operands, [type_], properties, [mask])

    def _parameters(self) -> Mapping[str, Attribute]:
        found: dict[str, Attribute] = {}
        for text in self.parameters:
            name, equals, value = text.partition("=")
            if not equals:
                raise error(f"cannot read the parameter '{text}': expected name=value, such as keep=0.1")
            found[name] = _attribute(value)
        return found

    def _restrict(self, attention: AttentionOp, blocks: Value) -> None:
        """Let the mask keep what is in a chosen block and was kept before."""
        op = attention.operation
        op.set_operands([*op.operands, blocks])
        for _, region in attention.present:
            region.block.add_argument(blocks.type, "blocks")
        block = attention.mask.block if not attention.mask.empty else region_block("mask", attention.captures)
        before = None if attention.mask.empty else _detached_yield(block)
        builder = Builder(block, location=op.location)
        chosen = self._chosen(builder, block, attention.group.value)
        kept = chosen if before is None else builder.binary(AndIOp, before, chosen, "kept")
        builder.create(YieldOp, [kept])
        if attention.mask.empty:
            attention.set_region("mask", Region([block]))

    def _chosen(self, builder: Builder, block: Block, group: int) -> Value:
        b, h, m, n = block.arguments[:4]
        places = [b, *(self._quotient(builder, x, size) for x, size in ((h, group), (m, self.rows), (n, self.block)))]
        return builder.create(ExtractOp, [block.arguments[-1], *places], [i1], name="chosen").operation.result

    def _quotient(self, builder: Builder, position: Value, size: int) -> Value:
        return position if size == 1 else builder.binary(DivSIOp, position, builder.index(size))


def _detached_yield(block: Block) -> Value:
    """What the region yields, with its yield taken away."""
    end = block.terminator
    kept = end.operands[0]
    end.erase()
    return kept


def _attribute(text: str) -> Attribute:
    """The number that `text` is, or else the text."""
    try:
        return IntegerAttr(int(text))
    except ValueError:
        pass
    try:
        return FloatAttr(float(text), f64)
    except ValueError:
        return StringAttr(text)
