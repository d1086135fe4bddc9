"""From text to records: what lark reads by `grammar.lark`, before names have a meaning.

Types and attributes are final here. Operations and regions stay records until the parser, which
knows what is in scope, builds them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lark import Lark, Token, Transformer

from .attributes import (
    ArrayAttr,
    Attribute,
    DictAttr,
    FunctionType,
    IntegerAttr,
    StringAttr,
    SymbolRefAttr,
    Type,
    UnitAttr,
    i1,
)
from .location import UNKNOWN, Location
from .text_values import (
    TextError,
    compact_array,
    dialect_attribute,
    dialect_type,
    number,
    plain_type,
    shaped_type,
    splat,
    string_value,
)

T = TypeVar("T")
Children = list[Any]
"""What lark hands to a rule: the values of its parts, None for an absent optional one."""


class ModuleSyntaxError(Exception):
    """What is wrong, the token where it is, and perhaps an earlier one with what happened there."""

    def __init__(self, message: str, token: Token, earlier: tuple[Token, str] | None = None) -> None:
        super().__init__(message)
        self.token, self.earlier = token, earlier


@dataclass(frozen=True, slots=True)
class ResultSyntax:
    """`%name:count`"""

    name: Token
    count: int


@dataclass(frozen=True, slots=True)
class UseSyntax:
    """`%name#number`"""

    name: Token
    number: int


@dataclass(frozen=True, slots=True)
class ArgumentSyntax:
    """`%name: type`"""

    name: Token
    type: Type


@dataclass(frozen=True, slots=True)
class BlockSyntax:
    """A block; the first of a region may have no label."""

    label: Token | None
    arguments: Sequence[ArgumentSyntax]
    operations: Sequence[OperationSyntax]


@dataclass(frozen=True, slots=True)
class OperationSyntax:
    """One operation; `token` is its quoted name, `location` what it says about its origin."""

    results: Sequence[ResultSyntax]
    token: Token
    name: str
    uses: Sequence[UseSyntax]
    properties: DictAttr
    regions: Sequence[Sequence[BlockSyntax]]
    attributes: DictAttr
    type: FunctionType
    location: Location | None


@functools.cache
def grammar() -> Lark:
    """The LALR parser for modules; built once, it takes a tenth of a second."""
    text = (Path(__file__).parent / "grammar.lark").read_text(encoding="utf-8")
    return Lark(text, parser="lalr", start="module", transformer=Records())


def read_module(text: str) -> list[OperationSyntax]:
    """The operations at the top of `text`; ModuleSyntaxError and lark's UnexpectedInput for errors."""
    parser: Any = grammar()  # lark's own types leave the result of a transformer open
    return parser.parse(text)


def read_token(read: Callable[..., T], token: Token, *more: Attribute | None) -> T:
    """What `read` makes of the token, or its problem at the token's place."""
    try:
        return read(str(token), *more)
    except TextError as problem:
        raise ModuleSyntaxError(str(problem), token) from None


def _small_number(token: Token, what: str, least: int) -> int:
    digits = token.lstrip("#")
    if not digits.isascii() or not digits.isdigit() or len(digits) > 9 or int(digits) < least:
        raise ModuleSyntaxError(f"{what} must be a number from {least} up, but is {digits[:24]}", token)
    return int(digits)


def present(children: Children) -> Children:
    return [child for child in children if child is not None]


class Records(Transformer[Token, Any]):
    """One method a rule of the grammar; lark calls it when the rule is complete."""

    module = results = uses = regions = list

    def operation(self, children: Children) -> OperationSyntax:
        results, token, uses, successors, properties, regions, attributes, type_, location = children
        name = read_token(string_value, token)
        if successors is not None:
            raise ModuleSyntaxError("branches to other blocks are not supported", successors)
        if not name:
            raise ModuleSyntaxError("an operation needs a name", token)
        empty = DictAttr(())
        return OperationSyntax(
            results or [],
            token,
            name,
            uses or [],
            properties or empty,
            regions or [],
            attributes or empty,
            type_,
            location,
        )

    def result(self, children: Children) -> ResultSyntax:
        name, count = children
        return ResultSyntax(name, 1 if count is None else _small_number(count, "the count of results", 1))

    def use(self, children: Children) -> UseSyntax:
        name, position = children
        return UseSyntax(name, 0 if position is None else _small_number(position, "the number of a result", 0))

    def successors(self, children: Children) -> Token:
        return children[0]

    def properties(self, children: Children) -> DictAttr:
        return children[0]

    attributes = properties

    # --- regions -----------------------------------------------------------------------------

    def body(self, children: Children) -> BlockSyntax | None:
        return BlockSyntax(None, (), children) if children else None

    def region(self, children: Children) -> list[BlockSyntax]:
        return present(children)

    def block(self, children: Children) -> BlockSyntax:
        label, arguments, *operations = children
        return BlockSyntax(label, arguments or (), operations)

    def block_arguments(self, children: Children) -> list[ArgumentSyntax]:
        return present(children)

    def block_argument(self, children: Children) -> ArgumentSyntax:
        name, type_, _ = children
        return ArgumentSyntax(name, type_)

    # --- attributes --------------------------------------------------------------------------

    def dictionary(self, children: Children) -> DictAttr:
        entries: dict[str, Attribute] = {}
        for token, key, value in present(children):
            if key in entries:
                raise ModuleSyntaxError(f"key '{key}' is given twice", token)
            entries[key] = value
        return DictAttr.of(entries)

    def entry(self, children: Children) -> tuple[Token, str, Attribute]:
        token, value = children
        key = read_token(string_value, token) if token.startswith('"') else str(token)
        if not key:
            raise ModuleSyntaxError("a key must not be empty", token)
        return token, key, UnitAttr() if value is None else value

    def nested_dictionary(self, children: Children) -> DictAttr:
        return children[0]

    def number(self, children: Children) -> Attribute:
        token, type_ = children
        return read_token(number, token, type_)

    def string(self, children: Children) -> StringAttr:
        return StringAttr(read_token(string_value, children[0]))

    def symbol(self, children: Children) -> SymbolRefAttr:
        token, nested = children
        if nested is not None:
            raise ModuleSyntaxError("references to nested symbols are not supported", nested)
        name = token[1:]
        return SymbolRefAttr(read_token(string_value, token.update(value=name)) if name.startswith('"') else name)

    def array(self, children: Children) -> ArrayAttr:
        return ArrayAttr(tuple(present(children)))

    def compact_array(self, children: Children) -> Attribute:
        return read_token(compact_array, children[0])

    def splat(self, children: Children) -> Attribute:
        token, type_ = children
        return read_token(splat, token, type_)

    def dialect_attribute(self, children: Children) -> Attribute:
        return read_token(dialect_attribute, children[0])

    def word(self, children: Children) -> Attribute:
        """`true`, `false`, `unit`, or a type that is one word."""
        (token,) = children
        if token in ("true", "false"):
            return IntegerAttr(int(token == "true"), i1)
        return UnitAttr() if token == "unit" else read_token(plain_type, token)

    # --- types -------------------------------------------------------------------------------

    def plain_type(self, children: Children) -> Type:
        return read_token(plain_type, children[0])

    def shaped_type(self, children: Children) -> Type:
        return read_token(shaped_type, children[0])

    def dialect_type(self, children: Children) -> Type:
        return read_token(dialect_type, children[0])

    def function_type(self, children: Children) -> FunctionType:
        inputs, results = children
        return FunctionType(inputs, results)

    def type_list(self, children: Children) -> tuple[Type, ...]:
        return tuple(present(children))

    def one_result(self, children: Children) -> tuple[Type, ...]:
        return tuple(children)

    def result_list(self, children: Children) -> tuple[Type, ...]:
        return children[0]

    # --- locations ---------------------------------------------------------------------------

    def location(self, children: Children) -> Location:
        return children[0]

    def place_in_file(self, children: Children) -> Location:
        file, line, column = children
        at_line, at_column = _small_number(line, "a line", 0), _small_number(column, "a column", 0)
        return Location(read_token(string_value, file), at_line, at_column) if at_line else UNKNOWN

    def named_place(self, children: Children) -> Location:
        return children[1] or UNKNOWN

    def first_place(self, children: Children) -> Location:
        return children[0]

    def unknown_place(self, _: Children) -> Location:
        return UNKNOWN
