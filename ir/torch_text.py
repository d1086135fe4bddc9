"""Reads what torch-mlir prints: the pretty form of its `torch` dialect, or the generic one, without torch-mlir.

Knows the syntax and the blobs of weights after the module; what the operations mean is the
business of their conversion to `aten`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from lark import Lark, Token
from lark.exceptions import VisitError

from .attributes import (
    ArrayAttr,
    Attribute,
    DialectType,
    DictAttr,
    FunctionType,
    IntegerAttr,
    StringAttr,
    Type,
    f64,
    i1,
    i64,
)
from .dialects.torch import VerbatimAttr
from .location import UNKNOWN, Location
from .syntax import (
    ArgumentSyntax,
    BlockSyntax,
    Children,
    ModuleSyntaxError,
    OperationSyntax,
    Records,
    UseSyntax,
    present,
    read_token,
)
from .text_values import TextError, number, shaped_type, splat, string_value

_OF_TORCH = re.compile(r'^(?!\s*//).*?(?:[\s"(]torch\.[a-z]|!torch\.)', re.MULTILINE)
_RESOURCES = re.compile(r"^\{-#.*", re.MULTILINE | re.DOTALL)
_BLOB = re.compile(r'^\s*("(?:\\.|[^"\\])*"|[\w$.]+):\s*"0x([0-9A-Fa-f]*)"', re.MULTILINE)
_ALIAS = re.compile(r"^#(\w+) = (.*)$", re.MULTILINE)
_PLACE = re.compile(r'"((?:\\.|[^"\\])*)":(\d+):(\d+)|#(\w+)')
_TORCH_INT = DialectType("torch.int")
EMPTY = DictAttr(())


def is_torch_text(text: str) -> bool:
    """Whether a text is for this reader: it names something of the `torch` dialect outside of comments."""
    return _OF_TORCH.search(text) is not None


def resource_section(text: str) -> str:
    """The part after the module that holds the blobs; empty where there is none."""
    found = _RESOURCES.search(text)
    return found[0] if found else ""


def dense_resources(text: str) -> Mapping[str, bytes]:
    """The blobs of a text by name, in the layout of memory; an elided one is absent.

    A blob opens with four bytes for its alignment, which are no data.
    """
    blobs = _BLOB.finditer(resource_section(text))
    return {found[1].strip('"'): bytes.fromhex(found[2])[4:] for found in blobs}


@functools.cache
def torch_grammar() -> Lark:
    """The parser for the generic form and that of torch-mlir; its trees are read by records with aliases."""
    texts = [(Path(__file__).parent / name).read_text(encoding="utf-8") for name in ("grammar.lark", "torch.lark")]
    return Lark("\n".join(texts), parser="lalr", start="module")


def read_torch_module(text: str) -> list[OperationSyntax]:
    """The operations at the top of `text`; ModuleSyntaxError and lark's UnexpectedInput for errors."""
    body = _RESOURCES.sub("", text)
    aliases = {found[1]: found[2] for found in _ALIAS.finditer(body)}
    parser: Any = torch_grammar()
    tree = parser.parse(_ALIAS.sub(lambda found: " " * len(found[0]), body))
    try:
        return _TorchRecords(aliases).transform(tree)
    except VisitError as problem:
        raise problem.orig_exc from None


def _call(
    token: Token,
    name: str,
    uses: Sequence[UseSyntax] | None,
    type_: FunctionType,
    *,
    results: Any = None,
    properties: Mapping[str, Attribute] | None = None,
    attributes: DictAttr | None = None,
    location: Location | None = None,
    body: BlockSyntax | None = None,
) -> OperationSyntax:
    regions = [] if body is None else [[body]]
    return OperationSyntax(
        results or [], token, name, uses or [], DictAttr.of(properties or {}), regions, attributes or EMPTY, type_,
        location,
    )  # fmt: skip


class _TorchRecords(Records):
    """The records of the generic form, and one method for each pretty form."""

    types = list

    def __init__(self, aliases: Mapping[str, str]) -> None:
        super().__init__()
        self.aliases = aliases

    # --- modules and functions ---------------------------------------------------------------

    def pretty_module(self, children: Children) -> OperationSyntax:
        name, attributes, body, location = children
        properties = {} if name is None else {"sym_name": StringAttr(name[1:])}
        block = body or BlockSyntax(None, (), [])
        token = Token("NAME", "module")
        return _call(
            token, "builtin.module", (), FunctionType((), ()), properties=properties, attributes=attributes,
            location=location, body=block,
        )  # fmt: skip

    def pretty_function(self, children: Children) -> OperationSyntax:
        visibility, symbol, *parameters, results, attributes, body, location = children
        arguments = [argument for argument, _ in present(parameters)]
        declared: list[tuple[Type, DictAttr]] = results or []
        type_ = FunctionType(tuple(a.type for a in arguments), tuple(type_ for type_, _ in declared))
        properties: dict[str, Attribute] = {"sym_name": StringAttr(symbol[1:]), "function_type": type_}
        if visibility is not None:
            properties["sym_visibility"] = StringAttr(str(visibility))
        kept = dict((attributes or EMPTY).items)
        for key, notes in (("arg_attrs", [n for _, n in present(parameters)]), ("res_attrs", [n for _, n in declared])):
            if any(note.items for note in notes):
                kept[key] = ArrayAttr(tuple(notes))
        block = BlockSyntax(None, arguments, body.operations if body else [])
        return _call(
            symbol, "func.func", (), FunctionType((), ()), properties=properties, attributes=DictAttr.of(kept),
            location=location, body=block,
        )  # fmt: skip

    def parameter(self, children: Children) -> tuple[ArgumentSyntax, DictAttr]:
        name, type_, notes, _ = children
        return ArgumentSyntax(name, type_), notes or EMPTY

    def declared_results(self, children: Children) -> list[tuple[Type, DictAttr]]:
        return present(children)

    def declared_type(self, children: Children) -> list[tuple[Type, DictAttr]]:
        return [(children[0], EMPTY)]

    def declared_result(self, children: Children) -> tuple[Type, DictAttr]:
        type_, notes = children
        return type_, notes or EMPTY

    def pretty_return(self, children: Children) -> OperationSyntax:
        uses, types, location = children
        token = uses[0].name if uses else Token("NAME", "return")
        return _call(token, "func.return", uses, FunctionType(tuple(types or ()), ()), location=location)

    # --- operations --------------------------------------------------------------------------

    def pretty_none(self, children: Children) -> OperationSyntax:
        results, token, attributes, location = children
        type_ = FunctionType((), (DialectType("torch.none"),))
        return _call(token, str(token), (), type_, results=results, attributes=attributes, location=location)

    def constant(self, children: Children) -> Token:
        return children[0]

    def pretty_constant(self, children: Children) -> OperationSyntax:
        results, token, value, attributes, location = children
        kind = token.rpartition(".")[2]
        type_ = DialectType("torch.Device" if kind == "device" else f"torch.{kind}")
        return _call(
            token, str(token), (), FunctionType((), (type_,)), results=results,
            properties={"value": _constant(value, kind)}, attributes=attributes, location=location,
        )  # fmt: skip

    def plain_signature(self, children: Children) -> FunctionType | tuple[Type, ...]:
        inputs, results = children
        return tuple(inputs) if results is None else FunctionType(tuple(inputs), tuple(results))

    def cast_signature(self, children: Children) -> FunctionType:
        source, target = children
        return FunctionType((source,), (target,))

    def signature(self, children: Children) -> Any:
        return children[0]

    def pretty_operation(self, children: Children) -> OperationSyntax:
        results, token, uses, attributes, type_, location = children
        if isinstance(type_, tuple):
            type_ = _one_sided(str(token), cast("tuple[Type, ...]", type_), bool(results))
        return _call(token, str(token), uses, type_, results=results, attributes=attributes, location=location)

    def pretty_operator(self, children: Children) -> OperationSyntax:
        results, token, name, uses, attributes, type_, location = children
        properties = {"name": StringAttr(read_token(string_value, name))}
        return _call(
            token, str(token), uses, type_, results=results, properties=properties, attributes=attributes,
            location=location,
        )  # fmt: skip

    def pretty_symbol(self, children: Children) -> OperationSyntax:
        results, token, name, attributes, type_, location = children
        properties: dict[str, Attribute] = {"symbol_name": StringAttr(read_token(string_value, name))}
        properties |= dict((attributes or EMPTY).items)
        type_ = FunctionType((), (type_,))
        return _call(token, str(token), (), type_, results=results, properties=properties, location=location)

    def pretty_literal(self, children: Children) -> OperationSyntax:
        results, token, value, attributes, type_, location = children
        return _call(
            token, str(token), (), FunctionType((), (type_,)), results=results, properties={"value": value},
            attributes=attributes, location=location,
        )  # fmt: skip

    def pretty_binding(self, children: Children) -> OperationSyntax:
        token, use, symbols, shape, attributes, type_, location = children
        inputs = (type_, *[_TORCH_INT] * len(symbols or ()))
        return _call(
            token, str(token), [use, *(symbols or ())], FunctionType(inputs, ()),
            properties={"shape_expressions": VerbatimAttr(str(shape))}, attributes=attributes, location=location,
        )  # fmt: skip

    def pretty_overwrite(self, children: Children) -> OperationSyntax:
        token, value, target, attributes, types, location = children
        type_ = FunctionType(tuple(types), ())
        return _call(token, str(token), [value, target], type_, attributes=attributes, location=location)

    # --- attributes and locations ------------------------------------------------------------

    def verbatim(self, children: Children) -> VerbatimAttr:
        return VerbatimAttr(str(children[0]))

    def dense(self, children: Children) -> Attribute:
        """A splat as such where the IR knows its type, else the text: weights, lists, types like si64."""
        head, _, type_ = children[0].rpartition(":")
        try:
            return splat(head.strip(), shaped_type(type_.strip()))
        except TextError:
            return VerbatimAttr(str(children[0]))

    def dialect_attribute(self, children: Children) -> Attribute:
        alias = self.aliases.get(children[0][1:])
        return super().dialect_attribute(children) if alias is None else VerbatimAttr(alias)

    def aliased_place(self, children: Children) -> Location:
        (token,) = children
        if token[1:] not in self.aliases:
            raise ModuleSyntaxError(f"alias {token} is not defined", token)
        return self._place(token[1:], set())

    def _place(self, alias: str, seen: set[str]) -> Location:
        """The first place in a file that an alias leads to."""
        seen.add(alias)
        for found in _PLACE.finditer(self.aliases.get(alias, "")):
            if found[4] is None:
                place = Location(found[1], int(found[2]), int(found[3])) if int(found[2]) else UNKNOWN
            else:
                place = UNKNOWN if found[4] in seen else self._place(found[4], seen)
            if place.known:
                return place
        return UNKNOWN


def _constant(token: Token, kind: str) -> Attribute:
    if token in ("true", "false"):
        return IntegerAttr(int(token == "true"), i1)
    if token.startswith('"'):
        return StringAttr(read_token(string_value, token))
    return read_token(number, token, f64 if kind == "float" else i64)


def _one_sided(name: str, types: tuple[Type, ...], defines: bool) -> FunctionType:
    """The type of an operation that prints only its results or only its operands.

    A copy between values and mutable tensors prints the type it copies to.
    """
    if not defines:
        return FunctionType(types, ())
    other = {"torch.copy.to_vtensor": ("vtensor", "tensor"), "torch.copy.to_tensor": ("tensor", "vtensor")}.get(name)
    (type_,) = types[:1]
    if other is None or not isinstance(type_, DialectType):
        return FunctionType((), types)
    return FunctionType((DialectType(f"torch.{other[1]}", type_.body),), types)
