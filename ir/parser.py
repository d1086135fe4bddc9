"""From text to IR: gives the names of values their meaning, and every error its place and words."""

from __future__ import annotations

import itertools
import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from lark import Lark, Token
from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken
from lark.lexer import PatternStr

from .attributes import Type
from .core import Block, Operation, Region, Value
from .diagnostics import CompileError, Diagnostic
from .location import Location
from .syntax import BlockSyntax, ModuleSyntaxError, OperationSyntax, UseSyntax, grammar, read_module
from .torch_text import is_torch_text, read_torch_module, torch_grammar

NAME_SCOPES = frozenset({"builtin.module", "func.func"})
"""Operations whose regions see no outer name and may use it again, to the real parser as to us."""

MAX_NESTING = 120
"""Brackets inside brackets; deeper text is refused, since every later walk over it recurses."""

TERMINALS: Mapping[str, str] = {
    "VALUE": "a value such as %x",
    "RESULT_NUMBER": "a result number such as #1",
    "BLOCK_NAME": "a block label such as ^bb0",
    "SYMBOL": "a symbol such as @main",
    "STRING": "a name in quotes",
    "NUMBER": "a number",
    "NAME": "a name",
    "SHAPED_TYPE": "a tensor type",
    "DIALECT_TYPE": "a type such as !a.b",
    "DIALECT_ATTRIBUTE": "an attribute such as #a.b",
    "COMPACT_ARRAY": "array<...>",
    "SPLAT": "dense<...>",
    "DENSE": "dense<...>",
    "AFFINE_MAP": "affine_map<...>",
    "TORCH_OP": "an operation such as torch.aten.matmul",
    "CONSTANT": "a constant such as torch.constant.int",
    "NONE": "torch.constant.none",
    "$END": "the end of the text",
}
"""What the patterns of the grammar are called in messages; the other terminals are their own text."""

_BRACKETS = re.compile(r'//[^\n]*|"(?:\\.|[^"\\\n])*"|[(\[{}\])]')


def parse_module(text: str, filename: str = "<stdin>") -> Operation:
    """The module written in `text`: its one `builtin.module`, or one around the operations there.

    Operations are located where their name stands, unless they carry a `loc(...)` of their own.
    The `torch` dialect may be in the pretty form as well, as torch-mlir prints it.
    Raises CompileError at the first thing that is not the generic form of MLIR, or whose names
    and types do not fit together; the verifier says what is wrong beyond that.
    """
    read, lark = (read_torch_module, torch_grammar) if is_torch_text(text) else (read_module, grammar)
    try:
        _check_nesting(text)
        operations = _Reader(filename, read(text)).operations()
    except UnexpectedInput as problem:
        raise _located(_in_words(problem, text, lark()), problem.line, problem.column, text, filename) from None
    except ModuleSyntaxError as problem:
        where = problem.token
        raise _located(str(problem), where.line or 0, where.column or 0, text, filename, problem.earlier) from None
    if len(operations) == 1 and operations[0].name == "builtin.module":
        return operations[0]
    block = Block()
    for operation in operations:
        block.append(operation)
    return Operation.create("builtin.module", regions=[Region([block])], location=Location(filename, 1, 1))


def _located(
    message: str, line: int, column: int, text: str, filename: str, earlier: tuple[Token, str] | None = None
) -> CompileError:
    if line < 1:  # lark's sign for the end of the text
        line, column = text.count("\n") + 1, len(text) - text.rfind("\n")
    notes = [(Location(filename, earlier[0].line or 0, earlier[0].column or 0), earlier[1])] if earlier else []
    return CompileError(Diagnostic(Location(filename, line, column), message, tuple(notes)), source=text)


def _check_nesting(text: str) -> None:
    depth = 0
    for found in _BRACKETS.finditer(text):
        depth += (found[0] in "([{") - (found[0] in ")]}")
        if depth > MAX_NESTING:
            line = text.count("\n", 0, found.start()) + 1
            token = Token("BRACKET", found[0], line=line, column=found.start() - text.rfind("\n", 0, found.start()))
            raise ModuleSyntaxError(f"brackets are nested more than {MAX_NESTING} deep", token)


# --- errors of the grammar, in words ---------------------------------------------------------


def _in_words(problem: UnexpectedInput, text: str, lark: Lark) -> str:
    if isinstance(problem, UnexpectedToken):
        token: Any = problem  # lark leaves the types of its errors open
        return _bad_token(token.token, set(token.accepts or token.expected), lark)
    if isinstance(problem, UnexpectedCharacters):
        character: Any = problem
        return _bad_character(text, character.pos_in_stream, set(character.allowed or ()), lark)
    return "the text ends too early"


def _bad_token(token: Token, expected: set[str], lark: Lark) -> str:
    if token.type == "$END":
        return f"{_expected(expected, lark)}, but the text ends"
    if {"STRING", "TORCH_OP"} <= expected and token.type == "NAME":
        return f"expected an operation of torch-mlir, or one with its name in quotes, but found '{_shortened(token)}'"
    if {"VALUE", "STRING"} <= expected and token.type == "NAME":
        return f"expected an operation in generic form, its name in quotes, but found '{_shortened(token)}'"
    if {"VALUE", "STRING"} <= expected and token.type in ("DIALECT_ATTRIBUTE", "DIALECT_TYPE"):
        return f"expected an operation, but found '{_shortened(token)}'; aliases are not supported"
    return f"{_expected(expected, lark)}, but found '{_shortened(token)}'"


def _bad_character(text: str, position: int, allowed: set[str], lark: Lark) -> str:
    character, before = text[position], text[position - 1 : position]
    if character == '"':
        return "this string has no closing quote on its line"
    if character == "-" and (before.isalnum() or before == "_"):
        return "names hold no '-': write '_', or quote the key of a dictionary"
    if character == "/" and text[position + 1 : position + 2] == "*":
        return "comments begin with '//'"
    return f"{_expected(allowed, lark)}, but found {character!r}"


def _expected(terminals: set[str], lark: Lark) -> str:
    words = sorted({_word(lark, name) for name in terminals if name != "COMMENT" and not name.startswith("__IGNORE")})
    if not words:
        return "this does not belong here"
    if len(words) > 6:
        return "expected an attribute" if "dense<...>" in words else "expected another part of the operation"
    return f"expected {words[0]}" if len(words) == 1 else f"expected {', '.join(words[:-1])} or {words[-1]}"


def _word(lark: Lark, terminal: str) -> str:
    if terminal in TERMINALS:
        return TERMINALS[terminal]
    pattern = lark.get_terminal(terminal).pattern
    return f"'{pattern.value}'" if isinstance(pattern, PatternStr) else terminal.lower().replace("_", " ")


def _shortened(text: str) -> str:
    line = text.split("\n", 1)[0]
    return line if len(line) <= 40 else f"{line[:36]}..."


# --- names and types -------------------------------------------------------------------------


@dataclass(frozen=True)
class _Definition:
    """The values one name stands for (`%x:2` is two), and where it was given."""

    token: Token
    values: Sequence[Value]


@dataclass
class _Reader:
    """Builds operations in order of the text, holding the names that are visible there."""

    filename: str
    top: Sequence[OperationSyntax]
    visible: dict[str, _Definition] = field(default_factory=dict[str, _Definition])

    def operations(self) -> list[Operation]:
        return [self._operation(syntax) for syntax in self.top]

    def _operation(self, syntax: OperationSyntax) -> Operation:
        operands = self._operands(syntax)
        with self._names_inside(syntax.name):
            regions = [self._region(blocks) for blocks in syntax.regions]
        operation = Operation.create(
            syntax.name,
            operands,
            syntax.type.results,
            dict(syntax.properties.items),
            regions,
            dict(syntax.attributes.items),
            self._location(syntax.token) if syntax.location is None else syntax.location,
        )
        self._name_results(syntax, operation.results)
        return operation

    def _location(self, token: Token) -> Location:
        return Location(self.filename, token.line or 0, token.column or 0)

    @contextmanager
    def _names_inside(self, operation: str) -> Generator[None, None, None]:
        """Names given in a region are not visible after it; some regions see none from outside."""
        outside = self.visible
        self.visible = {} if operation in NAME_SCOPES else dict(outside)
        yield
        self.visible = outside

    def _region(self, blocks: Sequence[BlockSyntax]) -> Region:
        outside, labels = dict(self.visible), set[str]()
        region = Region()
        for syntax in blocks:
            if syntax.label is not None and syntax.label in labels:
                raise ModuleSyntaxError(f"block {syntax.label} is defined twice", syntax.label)
            labels.add(str(syntax.label))
            region.append(self._block(syntax))
        self.visible = outside
        return region

    def _block(self, syntax: BlockSyntax) -> Block:
        block = Block()
        for argument in syntax.arguments:
            value = block.add_argument(argument.type, _hint(argument.name))
            self._define(argument.name, [value])
        for operation in syntax.operations:
            block.append(self._operation(operation))
        return block

    def _name_results(self, syntax: OperationSyntax, values: Sequence[Value]) -> None:
        named = sum(result.count for result in syntax.results)
        if syntax.results and named != len(values):
            raise ModuleSyntaxError(
                f"the operation has {_count(len(values), 'result')}, but {_count(named, 'name')}",
                syntax.results[0].name,
            )
        rest = iter(values)
        for result in syntax.results:
            mine = list(itertools.islice(rest, result.count))
            for value in mine:
                value.name_hint = _hint(result.name)
            self._define(result.name, mine)

    def _define(self, name: Token, values: Sequence[Value]) -> None:
        if (earlier := self.visible.get(name)) is not None:
            raise ModuleSyntaxError(f"{name} is defined twice", name, (earlier.token, "it is first defined here"))
        self.visible[name] = _Definition(name, values)

    def _operands(self, syntax: OperationSyntax) -> list[Value]:
        types = syntax.type.inputs
        if len(syntax.uses) != len(types):
            raise ModuleSyntaxError(
                f"the operation has {_count(len(syntax.uses), 'operand')}, but {_count(len(types), 'operand type')}",
                syntax.token,
            )
        return [self._operand(use, type_) for use, type_ in zip(syntax.uses, types, strict=True)]

    def _operand(self, use: UseSyntax, type_: Type) -> Value:
        definition = self.visible.get(use.name)
        if definition is None:
            defined = _find_definition(self.top, use.name)
            note = (defined, "the name is given here") if defined else None
            raise ModuleSyntaxError(f"{use.name} is not defined before this use", use.name, note)
        if use.number >= len(definition.values):
            raise ModuleSyntaxError(
                f"{use.name} has {_count(len(definition.values), 'result')}, but this is #{use.number}, counted from 0",
                use.name,
                (definition.token, "it is defined here"),
            )
        value = definition.values[use.number]
        if value.type != type_:
            raise ModuleSyntaxError(
                f"{use.name} is used as {type_}, but is {value.type}",
                use.name,
                (definition.token, "it is defined here"),
            )
        return value


def _hint(name: Token) -> str | None:
    """The name to print a value by; numbers are given anew."""
    return None if name[1:].isdigit() else str(name[1:])


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _find_definition(operations: Sequence[OperationSyntax], name: str) -> Token | None:
    return next((token for token in _defined(operations) if token == name), None)


def _defined(operations: Sequence[OperationSyntax]) -> Iterator[Token]:
    """Every place that gives a name, wherever it is visible."""
    for operation in operations:
        yield from (result.name for result in operation.results)
        for block in itertools.chain(*operation.regions):
            yield from (argument.name for argument in block.arguments)
            yield from _defined(block.operations)
