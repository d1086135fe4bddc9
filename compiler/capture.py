"""Turns the fx graph that Dynamo hands over into a functional ATen graph, before autograd.

Knows about mutation and lifted parameters; knows nothing about the IR.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import fx

from ..ir.diagnostics import error
from .in_place import write_in_place
from .inline_vmap import inline_vmaps


@dataclass(frozen=True)
class Signature:
    """How the outputs of the functional graph relate to those of the original.

    The first outputs are the new contents of inputs that the original graph mutates: `mutated`
    holds the positions of these inputs among the placeholders. `aliases` are the outputs that are
    views of such an input.
    """

    mutated: tuple[int, ...]
    aliases: tuple[Alias, ...] = ()


@dataclass(frozen=True)
class Alias:
    """Output number `output` is a view of placeholder number `source`, from its first element on."""

    output: int
    source: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class Captured:
    """A functional ATen graph whose placeholders are those of the original graph, in order."""

    graph_module: fx.GraphModule
    signature: Signature


def placeholder_examples(gm: fx.GraphModule) -> list[Any]:
    """The fake tensors and symbolic sizes that Dynamo traced `gm` with."""
    placeholders = [n for n in gm.graph.nodes if n.op == "placeholder"]
    return [n.meta["example_value"] if "example_value" in n.meta else n.meta.get("val") for n in placeholders]


def capture(gm: fx.GraphModule, examples: Sequence[Any]) -> Captured:
    """The functional ATen graph of `gm`.

    `examples` are the fake tensors and SymInts of its placeholders, all of one fake mode.
    Raises CompileError with the reason where PyTorch cannot export the graph, or where the
    functional graph could not stand in for the original.
    """
    from torch._functorch.aot_autograd import aot_export_module

    _refuse_autocast(gm)
    depth = _transform_depth()
    try:
        inline_vmaps(gm)
        _drop_idle_dropout(gm)
        _specialise_floats(gm)
        exported = aot_export_module(gm, list(examples), trace_joint=False, pre_dispatch=True)
    except Exception as problem:
        # An export that fails inside vmap does not leave it, and Dynamo's guards would notice.
        _leave_transforms(depth)
        # Whatever stops the export stops only the compilation: the original graph still runs.
        raise error(f"the graph cannot be exported: {_first_line(problem)}") from problem
    graph_module, signature = cast("tuple[fx.GraphModule, Any]", exported)
    _bind_lifted(gm, graph_module, signature)
    _drop_metadata_checks(graph_module)
    mutated = _mutated_inputs(graph_module, signature)
    _name_inputs(gm, graph_module)
    return Captured(graph_module, Signature(mutated, _aliases_of(gm, mutated)))


def restore_mutations(graph_module: fx.GraphModule, signature: Signature) -> None:
    """Write new contents into the inputs that the original graph mutates; drop these outputs."""
    graph = graph_module.graph
    placeholders = [n for n in graph.nodes if n.op == "placeholder"]
    output = graph.output_node()
    aliases = {alias.output + len(signature.mutated) for alias in signature.aliases}
    for i, position in enumerate(signature.mutated):
        results = list(cast("Sequence[Any]", output.args[0]))
        others = [n for j, n in enumerate(results) if j != i and j not in aliases]
        if not (isinstance(results[i], fx.Node) and write_in_place(placeholders[position], results[i], others)):
            with graph.inserting_before(output):
                copy = graph.call_function(torch.ops.aten.copy_.default, (placeholders[position], results[i]))
            copy.meta["val"] = placeholders[position].meta.get("val")
    returned = list(cast("Sequence[Any]", output.args[0]))[len(signature.mutated) :]
    with graph.inserting_before(output):
        for alias in signature.aliases:
            view = (placeholders[alias.source], alias.size, alias.stride)
            replaced = returned[alias.output]
            returned[alias.output] = graph.call_function(torch.ops.aten.as_strided.default, view)
            returned[alias.output].meta["val"] = replaced.meta.get("val")
    output.args = (tuple(returned),)
    graph.eliminate_dead_code()
    graph_module.recompile()


_transform_depth: Callable[[], int] = cast(Any, torch)._C._functorch.get_dynamic_layer_stack_depth
_leave_transforms: Callable[[int], None] = cast(Any, torch)._C._functorch.pop_dynamic_layer_stack_and_undo_to_depth


def _first_line(problem: Exception) -> str:
    lines = str(problem).strip().splitlines()
    return f"{type(problem).__name__}: {lines[0].strip()}" if lines else type(problem).__name__


def _refuse_autocast(gm: fx.GraphModule) -> None:
    """Autocast changes the dtypes of ops after capture, so the graph would not say what is computed."""
    entered = any(getattr(n.target, "__name__", "") == "_enter_autocast" for n in gm.graph.nodes)
    if entered or torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
        raise error("autocast is not supported: convert the model to the dtype instead")


def _aliases_of(gm: fx.GraphModule, mutated: Sequence[int]) -> tuple[Alias, ...]:
    """The outputs of `gm` that are views of an input it mutates.

    The functional graph would return copies of them. Raises CompileError at a view that does not
    start with the input, or whose sizes are not constant.
    """
    placeholders = [n for n in gm.graph.nodes if n.op == "placeholder"]
    sources = {_storage(placeholders[i]): i for i in mutated}
    outputs = list(cast("Sequence[Any]", gm.graph.output_node().args[0]))
    aliases = [(i, sources.get(_storage(node))) for i, node in enumerate(outputs) if isinstance(node, fx.Node)]
    return tuple(_alias(i, outputs[i], j, placeholders[j]) for i, j in aliases if j is not None)


def _alias(position: int, output: fx.Node, source: int, placeholder: fx.Node) -> Alias:
    view, base = (cast(torch.Tensor, n.meta["example_value"]) for n in (output, placeholder))
    sizes = [*view.shape, *view.stride(), view.storage_offset(), base.storage_offset()]
    constant = all(isinstance(size, int) for size in sizes)
    if not constant or view.dtype != base.dtype or view.storage_offset() != base.storage_offset():
        raise error(f"output '{output.name}' is a view of input '{placeholder.name}', which the graph mutates")
    return Alias(position, source, tuple(view.shape), view.stride())


def _storage(node: fx.Node) -> object:
    """The identity of the memory behind a node of Dynamo's graph; None where it holds no tensor."""
    value = node.meta.get("example_value")
    return cast(Any, value).untyped_storage()._cdata if isinstance(value, torch.Tensor) else None


def _bind_lifted(original: fx.GraphModule, graph_module: fx.GraphModule, signature: Any) -> None:
    """Turn placeholders that stand for parameters and buffers of `original` back into attributes."""
    lifted: dict[str, str] = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    for node in list(graph_module.graph.nodes):
        if node.op == "placeholder" and node.name in lifted:
            _bind(graph_module, node, original, lifted[node.name])
    graph_module.recompile()


def _bind(graph_module: fx.GraphModule, node: fx.Node, original: fx.GraphModule, path: str) -> None:
    owner, _, leaf = path.rpartition(".")
    name = f"attir_{path.replace('.', '_')}"
    setattr(graph_module, name, getattr(original.get_submodule(owner), leaf))
    with graph_module.graph.inserting_after(node):
        attribute = graph_module.graph.get_attr(name)
    attribute.meta = dict(node.meta)
    node.replace_all_uses_with(attribute)
    graph_module.graph.erase_node(node)


def _drop_idle_dropout(gm: fx.GraphModule) -> None:
    """Replace each dropout that is not at work by its input, which it returns itself.

    The functional graph would take the result for a tensor of its own, that nobody may write to.
    """
    for node in list(gm.graph.nodes):
        if node.op == "call_function" and node.target in (torch.nn.functional.dropout, torch.dropout):
            names = ("input", "p", "training" if node.target is torch.nn.functional.dropout else "train")
            given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
            if given.get(names[2]) is False or given.get("p") == 0:
                node.replace_all_uses_with(given["input"])
                gm.graph.erase_node(node)
    gm.recompile()


def _specialise_floats(gm: fx.GraphModule) -> None:
    """Fix the numbers that Dynamo passes as inputs since it met a second value, such as scales.

    The export cannot trace them. Reading one makes PyTorch guard it: another value is another capture.
    """
    for node in list(gm.graph.nodes):
        number = node.meta.get("example_value")
        if node.op == "call_method" and node.target == "item" and isinstance(number, torch.SymFloat) and _known(number):
            fixed = float(number)

            def constant(leaf: Any, old: fx.Node = node, new: float = fixed) -> Any:
                return new if leaf is old else leaf

            for user in list(node.users):
                user.args, user.kwargs = fx.map_arg((user.args, user.kwargs), constant)
            gm.graph.erase_node(node)
    gm.recompile()


def _known(number: torch.SymFloat) -> bool:
    """Whether a number has a value now; what a tensor computes has none before it is run."""
    return bool(cast(Any, number).node.has_hint())


def _drop_metadata_checks(graph_module: fx.GraphModule) -> None:
    """Drop checks of dtype and device: Dynamo guards them, and they would keep masks alive."""
    for node in list(graph_module.graph.nodes):
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            graph_module.graph.erase_node(node)
    graph_module.recompile()


def _name_inputs(gm: fx.GraphModule, graph_module: fx.GraphModule) -> None:
    """Call inputs as the user does: `L_self_modules_lin_parameters_weight_` becomes `lin_weight`."""
    originals = (n for n in gm.graph.nodes if n.op == "placeholder")
    copies = [n for n in graph_module.graph.nodes if n.op == "placeholder"]
    for original, copy in zip(originals, copies, strict=True):
        name = re.sub(r"^[LG]_+|_+$", "", str(original.target))
        name = (
            re.sub(r"(^|(?<=_))(modules|parameters|buffers)_", "", name).removeprefix("self_").removeprefix("kwargs_")
        )
        if name.isidentifier():
            copy._rename(name)
            copy.target = copy.name
    graph_module.recompile()


def _mutated_inputs(graph_module: fx.GraphModule, signature: Any) -> tuple[int, ...]:
    if signature.buffers_to_mutate or getattr(signature, "parameters_to_mutate", None):
        raise error("a parameter or buffer that is not an input of the graph is mutated")
    positions = {n.name: i for i, n in enumerate(n for n in graph_module.graph.nodes if n.op == "placeholder")}
    outputs = cast("Sequence[fx.Node]", graph_module.graph.output_node().args[0])
    mutated: dict[str, str] = signature.user_inputs_to_mutate
    return tuple(positions[mutated[node.name]] for node in list(outputs)[: len(mutated)])
