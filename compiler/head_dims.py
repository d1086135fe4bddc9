"""Makes the head dimensions of attention constant where PyTorch traced them as symbols.

Kernels keep whole head dimensions in registers, so these are compiled in. Reading a symbolic size
as a number makes PyTorch guard it: another head dimension then leads to a new capture.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import fx

from .flex_import import flex_arguments, is_flex
from .torch_types import known_number

_SOFTMAX = ("softmax", "_softmax", "_safe_softmax")
_PRODUCTS = ("matmul", "bmm", "baddbmm", "mm", "einsum")


def specialise_head_dims(graph_module: fx.GraphModule) -> int:
    """Fix the last sizes of every query, key and value in a graph; return how many were symbolic.

    Numbers of heads that differ between two of them are fixed as well, and the block sizes of a
    flex_attention: ratios to them are compiled in.
    """
    widths: list[Any] = []
    heads: list[Any] = []
    for node in graph_module.graph.nodes:
        if _packet(node) == "scaled_dot_product_attention":
            widths += [_last_size(argument) for argument in node.args[:3]]
            heads += _different_heads(node)
        elif _packet(node) in _SOFTMAX:
            products = _nearest_products(node, forward=False)
            widths += [_last_size(p.args[0]) for p in products]
            heads += [size for p in products for size in _different_heads(p)]
            widths += [_last_size(p) for p in _nearest_products(node, forward=True)]
        elif is_flex(node):
            widths += [_last_size(argument) for argument in node.args[:3]] + _block_sizes(node)
            heads += _different_heads(node)
    symbolic = [
        w
        for w in (*widths, *_inputs_of(heads, graph_module))
        if isinstance(w, torch.SymInt) and known_number(w) is None
    ]
    for width in symbolic:
        int(width)
    return len(symbolic)


def _packet(node: fx.Node) -> str:
    target = node.target
    return str(getattr(target, "_opname", "")) if node.op == "call_function" else ""


def _last_size(argument: Any) -> Any:
    example = argument.meta.get("val") if isinstance(argument, fx.Node) else None
    return example.shape[-1] if isinstance(example, torch.Tensor) and example.dim() else None


def _block_sizes(node: fx.Node) -> list[Any]:
    """How many queries and keys the blocks of a flex_attention have: divisors that a kernel's loops are made for."""
    arguments = flex_arguments(node)
    given = [arguments[name] for name in ("q_block", "kv_block")]
    return [size.meta.get("val") if isinstance(size, fx.Node) else size for size in given]


def _different_heads(product: fx.Node) -> list[Any]:
    """The sizes of the third axis from the end of the tensors of a product, where they are not one."""
    examples = [a.meta.get("val") for a in product.args[:3] if isinstance(a, fx.Node)]
    sizes = [e.shape[-3] for e in examples if isinstance(e, torch.Tensor) and e.dim() == 4]
    return sizes if len(set(map(str, sizes))) > 1 else []


def _inputs_of(sizes: list[Any], graph_module: fx.GraphModule) -> list[Any]:
    """The sizes of inputs that `sizes` are computed from: fixing a product would leave its factors open."""
    symbols = {x for s in sizes if isinstance(s, torch.SymInt) for x in cast(Any, s).node.expr.free_symbols}
    examples = [n.meta.get("val") for n in graph_module.graph.nodes if n.op == "placeholder"]
    found = [d for e in examples for d in (e.shape if isinstance(e, torch.Tensor) else [e])]
    return [d for d in found if isinstance(d, torch.SymInt) and cast(Any, d).node.expr in symbols]


def _nearest_products(softmax: fx.Node, *, forward: bool) -> list[fx.Node]:
    """The matrix products reached from a softmax without crossing another one."""
    found: list[fx.Node] = []
    seen, pending = {softmax}, [softmax]
    while pending:
        node = pending.pop()
        for near in node.users if forward else node.all_input_nodes:
            if near not in seen:
                seen.add(near)
                (found if _packet(near) in _PRODUCTS else pending).append(near)
    return found
