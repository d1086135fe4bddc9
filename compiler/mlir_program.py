"""Reads a program from a `.mlir` file, torch-mlir's or attir's own, as something the backend can compile.

The text becomes the `aten` level, which becomes a graph on example tensors; from there on it goes
the way of a graph that Dynamo captured.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..ir.attributes import Symbol, TensorType
from ..ir.core import Operation
from ..ir.diagnostics import error, op_error
from ..ir.dialects.aten import AtenOp
from ..ir.dialects.func import FuncOp
from ..ir.parser import parse_module
from ..ir.torch_text import dense_resources
from ..ir.verifier import verify
from ..passes.convert_torch import ConvertTorch
from ..passes.manager import PassContext
from .input_spec import DTYPES, InputSpec, make_inputs

if TYPE_CHECKING:
    from torch import fx

ENDING = ".mlir"


def names_program(subject: str) -> bool:
    """Whether a target is a text of IR: `model.mlir`, or `model.mlir:function`."""
    return subject.partition(f"{ENDING}:")[0].endswith(ENDING) or subject.endswith(ENDING)


@dataclass(frozen=True)
class Program:
    """A function of a `.mlir` file at the `aten` level, and the inputs it takes."""

    function: FuncOp
    inputs: Sequence[InputSpec]
    resources: dict[str, bytes]

    @property
    def largest_integer(self) -> int:
        """An integer input must stay below this to be a row of every table the program looks up."""
        tables = [AtenOp(op).operand("weight") for op in self.function.operation.walk() if op.name == "aten.embedding"]
        rows = [t.type.shape[0] for t in tables if t is not None and isinstance(t.type, TensorType)]
        return min([100, *(size for size in rows if isinstance(size, int))])

    def graph(self) -> fx.GraphModule:
        """A graph module that runs the program; what it says about missing weights goes to stderr."""
        from .mlir_graph import graph_of

        module, missing = graph_of(self.function, self.resources)
        if missing:
            print(f"{len(missing)} weights are not in the text: random numbers stand for them", file=sys.stderr)
        return module


def read_program(subject: str) -> Program:
    """The program that `subject` names; a CompileError says where and why it cannot be read."""
    path, name = (subject, "") if subject.endswith(ENDING) else subject.rsplit(":", 1)
    try:
        text = Path(path).read_bytes().decode("utf-8")
    except OSError as problem:
        raise error(f"cannot read {path}: {problem.strerror}") from problem
    except UnicodeDecodeError as problem:
        raise error(f"{path} is not text in UTF-8 (byte {problem.start})") from problem
    from .signatures import signature

    module = parse_module(text, path)
    verify(module, text)
    context = PassContext(signatures=signature)
    ConvertTorch().run(module, context)
    for remark in context.remarks:
        print(remark.render(), file=sys.stderr)
    function = _chosen(module, path, name)
    return Program(function, _inputs(function), dict(dense_resources(text)))


def _chosen(module: Operation, path: str, name: str) -> FuncOp:
    functions = [f for op in module.regions[0].block.ops if (f := FuncOp.match(op)) is not None]
    if name:
        functions = [f for f in functions if f.sym_name.value == name]
        if not functions:
            raise error(f"'{path}' has no function '{name}'")
    public = [f for f in functions if name or f.sym_visibility is None or f.sym_visibility.value != "private"]
    if len(public) != 1:
        found = ", ".join(f.sym_name.value for f in public) or "none"
        raise error(f"'{path}' must have one function that is not private, but has {found}; name one as {path}:NAME")
    return public[0]


def _inputs(function: FuncOp) -> list[InputSpec]:
    specs: list[InputSpec] = []
    for position, argument in enumerate(function.body.block.arguments):
        type_ = argument.type
        if not isinstance(type_, TensorType) or str(type_.element) not in DTYPES:
            expected = f"a tensor of {', '.join(DTYPES)}"
            op_error(function.operation, f"takes argument {position} of type {type_}; expected {expected}")
        sizes = [_size(d, f"d{position}_{axis}") for axis, d in enumerate(type_.shape)]
        specs.append(InputSpec(None, str(type_.element), tuple(sizes)))
    return specs


def _size(dim: int | Symbol | None, name: str) -> int | str:
    if isinstance(dim, int):
        return dim
    return dim.text if dim is not None and dim.text.isidentifier() else name


def checked_inputs(own: Sequence[InputSpec], given: Sequence[InputSpec]) -> Sequence[InputSpec]:
    """What the user gives as inputs, where a program can take it; its own description where nothing is given."""
    if not given:
        return own
    if len(given) != len(own):
        raise error(f"the program takes {len(own)} inputs, but {len(given)} are given")
    for position, (wanted, spec) in enumerate(zip(own, given, strict=True)):
        fits = len(wanted.sizes) == len(spec.sizes) and all(
            w == s for w, s in zip(wanted.sizes, spec.sizes, strict=True) if isinstance(w, int)
        )
        if wanted.dtype != spec.dtype or not fits:
            raise error(f"input {position} of the program is {wanted}, but '{spec}' is given")
    return [InputSpec(None, spec.dtype, spec.sizes) for spec in given]


def example_tensors(specs: Sequence[InputSpec], tensors: Sequence[Any]) -> list[Any]:
    """`tensors` without their numbers, named sizes as symbols: what a graph is captured with."""
    from torch._dynamo.source import ConstantSource
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

    symbolic: Any = StatelessSymbolicContext
    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    fakes: list[Any] = []
    for position, (spec, tensor) in enumerate(zip(specs, tensors, strict=True)):
        sizes = [DimDynamic.DYNAMIC if isinstance(size, str) else DimDynamic.STATIC for size in spec.sizes]
        context = symbolic(dynamic_sizes=sizes)
        fakes.append(mode.from_tensor(tensor, source=ConstantSource(f"arg{position}"), symbolic_context=context))
    return fakes


def compile_program(
    subject: str, given: Sequence[InputSpec], backend: Callable[..., Any], *, executes: bool
) -> tuple[Any, Callable[[], Any]]:
    """Compile the program `subject` names with `backend`; its result, if it `executes`, and a call without attir."""
    import torch

    program = read_program(subject)
    specs = checked_inputs(program.inputs, given)
    tensors, _ = make_inputs(specs, largest_integer=program.largest_integer)
    module = program.graph()
    examples = example_tensors(specs, tensors)
    _with_examples(module, examples)
    with torch.no_grad():
        compiled = backend(module, examples)
        result = compiled(*tensors) if executes else None

    def eager() -> Any:
        with torch.no_grad():
            return module(*tensors)

    return result, eager


def _with_examples(module: fx.GraphModule, examples: Sequence[Any]) -> None:
    """Give every node its value on `examples`, as Dynamo's graphs have them."""
    import torch
    from torch import fx

    class Examples(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            n.meta["example_value"] = super().run_node(n)
            return n.meta["example_value"]

    modes = {example.fake_mode for example in examples}
    with torch.no_grad(), contextlib.ExitStack() as stack:
        for mode in modes:
            stack.enter_context(mode)
        Examples(module).run(*examples)
