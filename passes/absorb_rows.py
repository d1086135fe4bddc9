"""absorb-rows: what surrounds an attention moves into its query, key, value and output regions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..ir.attributes import StringAttr
from ..ir.builder import Builder
from ..ir.core import Operation, Region, Value
from ..ir.diagnostics import error
from ..ir.dialects.attn import OPERANDS, AttentionOp
from .absorb_output import OutputPath, output_path
from .index_function import tensor_type
from .manager import Pass, PassContext
from .row_cost import rates, row_cost
from .row_paths import NOTHING, Follower, RowPath, is_view, rows_type
from .score_regions import drop_unused_captures, tidy
from .views import Views

FUSE = ("auto", "always", "never")


@dataclass(frozen=True)
class AbsorbRows(Pass):
    """Move RoPE, norms, factors and gates around attention into its regions, where that pays.

    `fuse` is "auto" (by an estimate for `target`, where `rest` runs what stays), "always" or "never".
    """

    name: ClassVar[str] = "absorb-rows"
    fuse: str = "auto"
    target: str = "sm_90"
    rest: str = "eager"

    def run(self, module: Operation, ctx: PassContext) -> None:
        if self.fuse not in FUSE:
            raise error(f"fuse must be one of {', '.join(FUSE)}, but is '{self.fuse}'")
        if self.fuse == "never" or (self.fuse == "auto" and rates(self.target) is None):
            return
        for operation in list(module.walk()):
            if (attention := AttentionOp.match(operation)) is not None:
                told = [self._absorb(attention, region, ctx) for region in (*OPERANDS, "output")]
                if any(told):
                    attention.rows = StringAttr("; ".join(filter(None, told)))

    def _absorb(self, attention: AttentionOp, region: str, ctx: PassContext) -> str:
        """Absorb one region if there is something to absorb and it pays; what was decided, in words."""
        rows = rows_type(attention, region)
        if not attention.region(region).empty or not isinstance(rows.shape[3], int):
            return ""
        path = _path(attention, region)
        if isinstance(path, str):
            return self._missed(attention, region, path, ctx)
        cost = row_cost(attention, region, rows, path.fused, path.block, self.target, self.rest)
        if self.fuse == "auto" and cost is not None and not cost.pays:
            return f"{region} stays outside: {cost}"
        refusal = apply_output(attention, path) if isinstance(path, OutputPath) else apply(attention, path)
        if refusal:
            return self._missed(attention, region, refusal, ctx)
        ctx.statistics["row regions absorbed"] += 1
        return f"{region} absorbed{f': {cost}' if self.fuse == 'auto' else ', as asked'}"

    def _missed(self, attention: AttentionOp, region: str, reason: str, ctx: PassContext) -> str:
        if reason == NOTHING:
            return ""
        ctx.miss(self.name, attention.operation, f"{region}: {reason}")
        return f"{region} stays outside: {reason}"


def _path(attention: AttentionOp, region: str) -> RowPath | OutputPath | str:
    if region == "output":
        return output_path(attention)
    value = attention.operation.operands[OPERANDS.index(region)]
    return Follower(attention, region, value).path()


def apply(attention: AttentionOp, path: RowPath) -> str:
    """Give `attention` the region of `path`, and the tensor it starts from as operand; why not, if it cannot."""
    number = OPERANDS.index(path.region)
    shape = rows_type(attention, path.region).shape
    source = path.axes.view(path.source, shape, Views(Builder.before(attention.operation)))
    if source is None:
        return f"'{path.source.name_hint or path.source.type}' cannot be viewed as rows"
    operands = list(attention.operation.operands)
    operands[number] = source
    add_region(attention, path, operands)
    return ""


def apply_output(attention: AttentionOp, path: OutputPath) -> str:
    """Move `attention` to where the last of what follows it stands, and that into its region; "", as it always can."""
    operation, last = attention.operation, path.last
    assert last.parent is not None, "what follows an attention stands in a block"
    last.parent.insert_before(last, operation.detach())
    add_region(attention, path, list(operation.operands))
    value, element = attention.out, tensor_type(attention.out).element
    for op in path.chain:
        if is_view(op):
            view = op.clone({op.operands[0]: value})
            view.results[0].type = tensor_type(view.results[0]).with_element(element)
            last.parent.insert_before(last, view)
            value = view.results[0]
    last.results[0].replace_all_uses_with(value)
    for op in reversed(path.chain):
        op.erase()
    return ""


def add_region(attention: AttentionOp, path: RowPath | OutputPath, operands: list[Value]) -> None:
    """Put the region of a path in its place; the others take its captures too."""
    for _, region in attention.present:
        for capture in path.captures:
            region.block.add_argument(capture.type, capture.name_hint)
    attention.operation.set_operands([*operands, *path.captures])
    attention.set_region(path.region, Region([path.block]))
    tidy(attention.operation)
    drop_unused_captures(attention)
