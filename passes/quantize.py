"""quantize: an attention reads codes of few bits, made in front of it. Lossy; never by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from ..ir.attributes import Attribute, Dim, IntegerAttr, Symbol, TensorType, UnitAttr, f32, is_float8
from ..ir.builder import Builder
from ..ir.core import Operation, Region, Value
from ..ir.diagnostics import error, op_error
from ..ir.dialects.arith import AddFOp, MulFOp
from ..ir.dialects.attn import AttentionOp, YieldOp, region_block
from ..ir.dialects.attn_storage import DequantizeOp, ProjectOp, QuantizeOp, SubtractMeanOp
from ..ir.dialects.tensor import ExtractOp
from ..ir.storage import DEFAULT, FIELDS, Storage
from .manager import Pass, PassContext
from .moved_scores import moves_with_scores

PLACES: Mapping[str, int] = {"query": 0, "key": 1, "value": 2}
"""The operand that each region reads."""

BASES: Mapping[str, str] = {"query_basis": "query", "key_basis": "key", "value_basis": "value"}
"""Matrices that operands are multiplied by, and the region that reads the operand."""


@dataclass(frozen=True)
class Quantize(Pass):
    """Put q, k or v of each attention in few bits in front of it, and let it read what it needs.

        attention(q, k, v)  →  codes, scale = quantize(k)
                               attention(q, codes, v, scale) {key: dequantize(codes, scale)}

    `query`, `key` and `value` say how each is stored, as name=value after `Storage`: `key=bits=4,signed=0,zero=1`;
    empty leaves it as it is. Before that, `smooth` subtracts the mean of the keys; where more than a softmax reads the
    scores, what each row lost, scale * q · mean, is added to them again. `tensors` names the last arguments of the
    function around, "query_basis", "key_basis" or "value_basis", each (1, K | 1, D, R): the matrices that q, k and v
    are multiplied by; out is multiplied by value_basis transposed.
    """

    name: ClassVar[str] = "quantize"
    query: tuple[str, ...] = ()
    key: tuple[str, ...] = ()
    value: tuple[str, ...] = ()
    smooth: bool = False
    tensors: tuple[str, ...] = ()

    def run(self, module: Operation, ctx: PassContext) -> None:
        formats = {name: storage_of(entries) for name in PLACES if (entries := getattr(self, name))}
        for name in self.tensors:
            if name not in BASES:
                raise error(f"unknown tensor '{name}'; expected {', '.join(BASES)}")
        found = [attention for op in module.walk() if (attention := AttentionOp.match(op)) is not None]
        for number, attention in enumerate(found):
            _Quantizer(attention, str(number or ""), ctx).run(formats, self.smooth, self._bases(attention))
            ctx.statistics["attentions quantized"] += 1

    def _bases(self, attention: AttentionOp) -> Mapping[str, Value]:
        """The matrix of each region's operand, where there is one."""
        holder = attention.operation.parent_op
        arguments = holder.regions[0].block.arguments if holder is not None else []
        if len(self.tensors) > len(arguments):
            op_error(attention.operation, f"{len(self.tensors)} tensors are named, but there are {len(arguments)}")
        last = arguments[len(arguments) - len(self.tensors) :]
        return {BASES[name]: value for name, value in zip(self.tensors, last, strict=True)}


def storage_of(entries: Sequence[str]) -> Storage:
    """The storage that name=value entries write down; CompileError where they cannot be read."""
    values: dict[str, bool | int | str] = {}
    for entry in entries:
        name, equals, text = entry.partition("=")
        if not equals or name not in FIELDS:
            raise error(f"cannot read '{entry}' of a storage: expected name=value with {', '.join(FIELDS)}")
        before: object = getattr(DEFAULT, name)
        try:
            values[name] = (
                text if isinstance(before, str) else bool(int(text)) if isinstance(before, bool) else int(text)
            )
        except ValueError:
            raise error(f"'{name}' of a storage must be a number, but is '{text}'") from None
    return Storage(**values)  # pyright: ignore[reportArgumentType]


def entries_of(storage: Storage) -> tuple[str, ...]:
    """What `storage_of` reads: the fields that differ from the default."""
    found = {name: getattr(storage, name) for name in FIELDS if getattr(storage, name) != getattr(DEFAULT, name)}
    return tuple(f"{name}={value if isinstance(value, str) else int(value)}" for name, value in found.items()) or (
        f"bits={storage.bits}",
    )


def for_width(template: Storage, width: int) -> Storage:
    """The storage of rows of `width` numbers; groups of as many channels or more are one."""
    return replace(template, width=width, channels=template.channels if template.channels < width else 0)


@dataclass
class _Quantizer:
    """Rewrites one attention; its `number` is in symbols, since lengths may differ."""

    attention: AttentionOp
    number: str
    ctx: PassContext
    operands: dict[str, Value] = field(default_factory=dict[str, Value])
    added: dict[str, list[Value]] = field(default_factory=dict[str, list[Value]])

    def run(self, formats: Mapping[str, Storage], smooth: bool, bases: Mapping[str, Value]) -> None:
        op = self.attention.operation
        touched = {*formats, *bases, *(["key"] if smooth else [])}
        self._check(touched)
        if "value" in bases and not self.attention.output.empty:
            op_error(op, "values in another basis give out in that basis, but region 'output' reads it")
        self.operands = {name: op.operands[place] for name, place in PLACES.items()}
        rows = self._smooth() if smooth else None
        for name, basis in bases.items():
            group = self.attention.group.value if name == "query" else 1
            self.operands[name] = self._project(self.operands[name], basis, group, name)
        if "value" in bases:
            self._restore_out(bases["value"])
        regions = {name: self._quantize(name, formats[name]) for name in formats}
        captures = [*([rows] if rows is not None else []), *(s for name in formats for s in self.added[name])]
        self._add_captures(captures)
        for name, storage in regions.items():
            self._read_codes(name, storage)
        if rows is not None:
            self._add_rows(len(captures))

    def _check(self, touched: set[str]) -> None:
        """Fail on an attention whose rows change inside of it, or are in few bits already."""
        attention, op = self.attention, self.attention.operation
        for name in (name for name in PLACES if name in touched):
            type_ = attention.operand(name).type
            assert isinstance(type_, TensorType)
            if not attention.region(name).empty:
                op_error(op, f"quantises rows as they enter the product, but region '{name}' changes them")
            if is_float8(type_.element):
                op_error(op, f"quantises numbers of 16 bits or more, but the operand of '{name}' is {type_}")
            if not isinstance(type_.shape[3], int) or not type_.shape[3]:
                op_error(op, f"quantises rows of a constant width, but the operand of '{name}' is {type_}")

    @property
    def _builder(self) -> Builder:
        return Builder.before(self.attention.operation)

    def _smooth(self) -> Value | None:
        """Keys minus their mean; what each row of scores lost, (B, H, M, 1), where that is noticed."""
        attention, q, k = self.attention, self.operands["query"], self.operands["key"]
        type_ = k.type
        assert isinstance(type_, TensorType) and isinstance(q.type, TensorType)
        mean_type = type_.with_shape(*type_.shape[:2], 1, type_.shape[3]).with_element(f32)
        smooth = self._builder.create(SubtractMeanOp, [k], [type_, mean_type], name="smooth")
        self.operands["key"] = smooth.out
        smooth.mean.name_hint = "mean"
        noticed = attention.lse.uses or not attention.sink.empty or attention.empty_score is not None
        if not noticed and moves_with_scores(attention.score):
            return None
        lost = q.type.with_shape(*q.type.shape[:3], 1).with_element(f32)
        self.ctx.remark(attention.operation, "what rows of scores lose with the mean of keys is added to them again")
        return self._create_project(q, smooth.mean, attention.group.value, lost, transposed=True, name="lost")

    def _project(self, x: Value, basis: Value, group: int, name: str) -> Value:
        """x in the channels that are the columns of `basis`."""
        assert isinstance(x.type, TensorType) and isinstance(basis.type, TensorType)
        width, rank = basis.type.shape[2:]
        if width != x.type.shape[3] or not isinstance(rank, int):
            op_error(
                self.attention.operation,
                f"the basis for '{name}' must have {x.type.shape[3]} rows and a constant width, but is {basis.type}",
            )
        return self._create_project(x, basis, group, x.type.with_shape(*x.type.shape[:3], rank), name=name)

    def _create_project(
        self, x: Value, basis: Value, group: int, type_: TensorType, *, transposed: bool = False, name: str = ""
    ) -> Value:
        return self._builder.create(ProjectOp, [x, basis], [type_], _projection(group, transposed), name=name).out

    def _restore_out(self, basis: Value) -> None:
        """Make out one of the width that values have in their new basis, and bring it back behind the attention."""
        op, out, v = self.attention.operation, self.attention.out, self.operands["value"].type
        before = out.type
        assert isinstance(before, TensorType) and isinstance(v, TensorType) and op.parent is not None
        out.type = before.with_shape(*before.shape[:3], v.shape[3])
        restored = ProjectOp.create([out, basis], [before], _projection(self.attention.group.value, True))
        restored.operation.location = op.location
        following = op.parent.ops[op.parent.ops.index(op) + 1]
        op.parent.insert_before(following, restored.operation)
        out.replace_uses_if(restored.out, lambda user: user is not restored.operation)
        restored.out.name_hint = "restored"

    def _quantize(self, name: str, template: Storage) -> Storage:
        """Put an operand in few bits; its codes take its place, and scales become captures to be added."""
        x = self.operands[name]
        assert isinstance(x.type, TensorType) and isinstance(x.type.shape[3], int)
        batch, heads, tokens, width = *x.type.shape[:3], x.type.shape[3]
        storage = for_width(template, width)
        rows, (_, channels) = self._rows(name, storage, tokens), storage.scale_sizes(1)
        codes = TensorType((batch, heads, rows, storage.stored_width), storage.element)
        own = (batch, heads) if storage.heads else (1, 1)
        scale = TensorType((*own, self._groups(name, storage, tokens), channels), f32)
        properties: dict[str, Attribute] = {"storage": storage.to_attr()}
        types = [codes, scale, *([scale] if storage.zero else [])]
        made = self._builder.create(QuantizeOp, [x], types, properties, name=f"{name}_codes").operation
        for value, hint in zip(made.results[1:], ("scale", "zero"), strict=False):
            value.name_hint = f"{name}_{hint}"
        self.operands[name], self.added[name] = made.results[0], made.results[1:]
        return storage

    def _rows(self, name: str, storage: Storage, tokens: Dim) -> Dim:
        """How many rows the stored tensor has."""
        if not storage.packed or storage.axis == "channels":
            return tokens
        return storage.stored_tokens(tokens) if isinstance(tokens, int) else Symbol(f"{name}_rows{self.number}")

    def _groups(self, name: str, storage: Storage, tokens: Dim) -> Dim:
        """How many groups of tokens have scales of their own."""
        if storage.tokens == 1:
            return tokens
        if isinstance(tokens, int) or not storage.tokens:
            return storage.scale_sizes(tokens if isinstance(tokens, int) else 1)[0]
        return Symbol(f"{name}_groups{self.number}")

    def _add_captures(self, captures: Sequence[Value]) -> None:
        op = self.attention.operation
        present = self.attention.present
        op.set_operands([*(self.operands[name] for name in PLACES), *op.operands[3:], *captures])
        for _, region in present:
            for capture in captures:
                region.block.add_argument(capture.type, capture.name_hint)

    def _read_codes(self, name: str, storage: Storage) -> None:
        """A region that is the number behind each code."""
        op, captures = self.attention.operation, self.attention.captures
        block = region_block(name, captures, self.operands[name].type)
        b, h, n, d, source = block.arguments[:5]
        own = [block.arguments[5 + _place(captures, value)] for value in self.added[name]]
        builder = Builder(block, location=op.location)
        properties: dict[str, Attribute] = {"storage": storage.to_attr()}
        number = builder.create(DequantizeOp, [source, b, h, n, d, *own], [f32], properties, name=name).out
        builder.create(YieldOp, [number])
        self.attention.set_region(name, Region([block]))

    def _add_rows(self, added: int) -> None:
        """Let the score region begin with what each row lost; it is the first of the captures that were `added`."""
        attention, op = self.attention, self.attention.operation
        fresh = attention.score.empty
        block = region_block("score", attention.captures) if fresh else attention.score.block
        s, b, h, m = block.arguments[:4]
        anchor = None if fresh else block.ops[0]
        builder = Builder(block, anchor, op.location)
        lost = block.arguments[len(block.arguments) - added]
        number = builder.create(ExtractOp, [lost, b, h, m, builder.index(0)], [f32]).operation.result
        scaled = builder.binary(MulFOp, number, builder.constant(attention.scale.value, f32))
        whole = builder.binary(AddFOp, s, scaled, "whole")
        if fresh:
            builder.create(YieldOp, [whole])
            attention.set_region("score", Region([block]))
            return
        producer = whole.defining_op
        s.replace_uses_if(whole, lambda user: user is not producer)


def _projection(group: int, transposed: bool) -> dict[str, Attribute]:
    return {"group": IntegerAttr(group), **({"transposed": UnitAttr()} if transposed else {})}


def _place(values: Sequence[Value], wanted: Value) -> int:
    return next(i for i, value in enumerate(values) if value is wanted)
