"""Turns the fx graph that Dynamo hands over into a functional ATen graph, before autograd.

Knows about mutation and lifted parameters; knows nothing about the IR.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import fx

from ..ir.diagnostics import error


@dataclass(frozen=True)
class Signature:
    """How the outputs of the functional graph relate to those of the original.

    The first outputs are the new contents of inputs that the original graph mutates: `mutated`
    holds the positions of these inputs among the placeholders.
    """

    mutated: tuple[int, ...]


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
    try:
        exported = aot_export_module(gm, list(examples), trace_joint=False, pre_dispatch=True)
    except Exception as problem:
        # Whatever stops the export stops only the compilation: the original graph still runs.
        raise error(f"the graph cannot be exported: {_first_line(problem)}") from problem
    graph_module, signature = cast("tuple[fx.GraphModule, Any]", exported)
    _bind_lifted(gm, graph_module, signature)
    _drop_metadata_checks(graph_module)
    mutated = _mutated_inputs(graph_module, signature)
    _refuse_aliases(gm, mutated)
    _name_inputs(gm, graph_module)
    return Captured(graph_module, Signature(mutated))


def restore_mutations(graph_module: fx.GraphModule, signature: Signature) -> None:
    """Write new contents back into the inputs that the original graph mutates; drop these outputs."""
    graph = graph_module.graph
    placeholders = [n for n in graph.nodes if n.op == "placeholder"]
    output = graph.output_node()
    results = list(cast("Sequence[Any]", output.args[0]))
    count = len(signature.mutated)
    with graph.inserting_before(output):
        for position, value in zip(signature.mutated, results, strict=False):
            copy = graph.call_function(torch.ops.aten.copy_.default, (placeholders[position], value))
            copy.meta["val"] = placeholders[position].meta.get("val")
    output.args = (tuple(results[count:]),)
    graph_module.recompile()


def _first_line(problem: Exception) -> str:
    lines = str(problem).strip().splitlines()
    return f"{type(problem).__name__}: {lines[0].strip()}" if lines else type(problem).__name__


def _refuse_autocast(gm: fx.GraphModule) -> None:
    """Autocast changes the dtypes of ops after capture, so the graph would not say what is computed."""
    entered = any(getattr(n.target, "__name__", "") == "_enter_autocast" for n in gm.graph.nodes)
    if entered or torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
        raise error("autocast is not supported: convert the model to the dtype instead")


def _refuse_aliases(gm: fx.GraphModule, mutated: Sequence[int]) -> None:
    """A functional graph returns copies where the original returns views of an input it mutates."""
    placeholders = [n for n in gm.graph.nodes if n.op == "placeholder"]
    names = {_storage(placeholders[i]): placeholders[i].name for i in mutated}
    for returned in gm.graph.output_node().all_input_nodes:
        storage = _storage(returned)
        if storage is not None and storage in names:
            raise error(f"output '{returned.name}' is a view of input '{names[storage]}', which the graph mutates")


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
        name = re.sub(r"(^|(?<=_))(modules|parameters|buffers)_", "", name).removeprefix("self_")
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
