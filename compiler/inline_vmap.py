"""Replaces what Dynamo recorded of `torch.vmap` by the batched ATen operators it stands for.

Dynamo writes a vmap as calls that enter it, mark the batched tensors, and leave it. PyTorch cannot
export these as a functional graph, so each outermost vmap is traced to plain operators beforehand.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, cast

import torch
from torch import fx

ENTER, LEAVE = "_vmap_increment_nesting", "_vmap_decrement_nesting"
SETUP = "lazy_load_decompositions"


def inline_vmaps(gm: fx.GraphModule) -> int:
    """Write every outermost vmap of a graph from Dynamo as ATen operators; return how many there were.

    Nodes carry their example values in `meta["example_value"]`. The graph is changed in place.
    """
    regions = _regions(gm.graph)
    for region in regions:
        _inline(gm, region)
    if regions:
        for node in list(gm.graph.nodes):
            if _called(node) == SETUP and not node.users:
                gm.graph.erase_node(node)
        gm.recompile()
    return len(regions)


def _called(node: fx.Node) -> str:
    return str(getattr(node.target, "__name__", "")) if node.op == "call_function" else ""


def _regions(graph: fx.Graph) -> list[list[fx.Node]]:
    """The nodes of every outermost vmap, from entering it to leaving it."""
    regions: list[list[fx.Node]] = []
    depth = 0
    for node in graph.nodes:
        if _called(node) == ENTER:
            if depth == 0:
                regions.append([])
            depth += 1
        if depth:
            regions[-1].append(node)
        if _called(node) == LEAVE:
            depth -= 1
    return regions


def _inline(gm: fx.GraphModule, region: Sequence[fx.Node]) -> None:
    inside = set(region)
    inputs = list(dict.fromkeys(n for node in region for n in node.all_input_nodes if n not in inside))
    outputs = [node for node in region if any(user not in inside for user in node.users)]
    traced = _traced(gm, region, inputs, outputs)
    values: dict[fx.Node, Any] = dict(
        zip((n for n in traced.graph.nodes if n.op == "placeholder"), inputs, strict=True)
    )
    trace = region[0].meta.get("stack_trace")
    with gm.graph.inserting_before(region[0]):
        for node in traced.graph.nodes:
            if node.op == "get_attr":
                values[node] = _moved_attribute(gm, traced, node)
            elif node.op not in ("placeholder", "output"):
                values[node] = gm.graph.node_copy(node, lambda n: values[n])
                values[node].meta = {"example_value": node.meta.get("val"), "stack_trace": trace}
    results = cast("Sequence[fx.Node]", traced.graph.output_node().args[0])
    for old, new in zip(outputs, results, strict=True):
        old.replace_all_uses_with(values[new], delete_user_cb=lambda user: user not in inside)
    for node in reversed(region):
        gm.graph.erase_node(node)


def _traced(
    gm: fx.GraphModule, region: Sequence[fx.Node], inputs: Sequence[fx.Node], outputs: Sequence[fx.Node]
) -> fx.GraphModule:
    """The operators that the calls of `region` come down to."""
    from torch._guards import detect_fake_mode
    from torch.fx.experimental.proxy_tensor import make_fx

    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {node: graph.placeholder(node.name) for node in inputs}
    for node in region:
        copies[node] = graph.node_copy(node, lambda n: copies[n])
    graph.output([copies[n] for n in outputs])
    mode: Any = detect_fake_mode([n.meta.get("example_value") for n in gm.graph.nodes if n.op == "placeholder"])
    with mode or nullcontext(), torch.no_grad():
        # Dynamo leaves the placeholders in one fake mode and what it traced in another.
        examples = [_in_current_mode(n.meta.get("example_value")) for n in inputs]
        return make_fx(fx.GraphModule(gm, graph))(*examples)


def _in_current_mode(example: Any) -> Any:
    """A tensor with the form of `example` under the fake mode that is active; anything else as it is."""
    if not isinstance(example, torch.Tensor):
        return example
    return torch.empty_strided(example.shape, example.stride(), dtype=example.dtype, device=example.device)


def _moved_attribute(gm: fx.GraphModule, traced: fx.GraphModule, node: fx.Node) -> fx.Node:
    """A constant of the traced operators, as an attribute of `gm`."""
    name = f"vmap_{node.name}"
    while hasattr(gm, name):
        name += "_"
    setattr(gm, name, getattr(traced, str(node.target)))
    return gm.graph.get_attr(name)
