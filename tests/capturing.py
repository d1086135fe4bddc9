"""Captures a Python function as an `aten` module, for tests of what comes after capture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch

from attir.compiler.capture import capture
from attir.compiler.fx_import import import_graph
from attir.ir.core import Operation


@dataclass(frozen=True)
class CapturedCall:
    """A module with `@main`, and its arguments in the order in which Dynamo passes them."""

    module: Operation
    arguments: list[Any]


def captured(function: Callable[..., Any], *inputs: torch.Tensor, dynamic: bool | None = False) -> CapturedCall:
    """The graph that Dynamo and the import make of `function` at `inputs`."""
    found: list[CapturedCall] = []

    def backend(graph: torch.fx.GraphModule, example_inputs: list[Any]) -> Callable[..., Any]:
        values = [n.meta["example_value"] for n in graph.graph.nodes if n.op == "placeholder"]
        module = import_graph(capture(graph, values).graph_module).module
        found.append(CapturedCall(module, list(example_inputs)))
        return graph.forward

    torch._dynamo.reset()  # pyright: ignore[reportPrivateUsage]
    with torch.no_grad():
        cast(Any, torch).compile(function, backend=backend, dynamic=dynamic)(*inputs)
    (call,) = found
    return call
