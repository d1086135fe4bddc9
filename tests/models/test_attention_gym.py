"""Every family of `models.gym`, as raw PyTorch and as flex_attention mods: fused, right, and without an S x S tensor.

Bound: our error is at most twice that of the raw form run eagerly in the same dtype, plus one
rounding of the weights and one of the result.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownLambdaType=false
# pyright: reportUnknownArgumentType=false, reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from models.gym import FAMILIES, Family
from numeric.closeness import NATIVE, assert_within, error
from torch import Tensor, fx

import attir
from attir.compiler.backend import Backend
from attir.compiler.options import Options

pytestmark = NATIVE
MASKS = tuple(f for f in FAMILIES if f.mask_mod is not None)
every_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
every_mask = pytest.mark.parametrize("family", MASKS, ids=lambda f: f.name)
bf16_too = pytest.mark.parametrize(
    "dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)], ids=["f32", "bf16"]
)


@pytest.fixture(autouse=True)
def fresh_dynamo() -> None:
    torch._dynamo.reset()


def check(family: Family, function: Callable[..., Tensor], dtype: torch.dtype, *more: Any) -> attir.Report:
    """`function` of the family's q, k, v and `more` is one fused site with the right result."""
    q, k, v = family.inputs(dtype)
    compiled = attir.compile(function, strict=True)
    with torch.no_grad():
        ours, plain = compiled(q, k, v, *more), family.raw(q, k, v)
    report = attir.explain(compiled)
    assert [s.status for s in report.sites] == ["fused"], str(report)
    exact, _ = family.expected(*(x.double() for x in (q, k, v)))
    assert ours.dtype == dtype
    assert_within(ours, exact, 2 * error(plain, exact) + torch.finfo(dtype).eps * v.abs().max().item())
    return report


@bf16_too
@every_family
def test_raw_pytorch(family: Family, dtype: torch.dtype) -> None:
    check(family, family.raw, dtype)


@bf16_too
@every_family
def test_flex_attention(family: Family, dtype: torch.dtype) -> None:
    check(family, family.flex, dtype, family.block_mask(block=32))


@pytest.mark.slow
@every_mask
def test_block_mask_made_inside(family: Family) -> None:
    """Lists that create_block_mask makes in the same graph add nothing to the mask, and are seen to add nothing."""
    report = check(family, lambda q, k, v: family.flex(q, k, v, family.block_mask(block=32)), torch.float32)
    assert "blocks" not in report.sites[0].form


@every_mask
def test_families_keep_what_they_should(family: Family) -> None:
    """The brute-force mask has kept and dropped positions, so that leaving it out would be noticed."""
    share = family.kept().float().mean().item()
    assert 0.02 < share < 0.98
    empty = (~family.kept()).all(-1).any().item()
    assert empty == (family.name == "flamingo_cross")


def compiled_graph(function: Callable[..., Tensor], *inputs: Tensor) -> fx.GraphModule:
    """What runs in place of `function`, with its sites fused."""
    graphs: list[fx.GraphModule] = []
    backend = Backend(Options(strict=True))

    def keep(gm: fx.GraphModule, examples: Any) -> Any:
        run = backend(gm, examples)
        graphs.append(run.__self__)  # pyright: ignore[reportFunctionMemberAccess]
        return run

    with torch.no_grad():
        torch.compile(function, backend=keep)(*inputs)
    (graph,) = graphs
    return graph


def matrices(graph: fx.GraphModule, rows: int, columns: int) -> list[str]:
    """The operators that compute a tensor with an axis for queries and another for keys."""
    found: list[str] = []
    for node in graph.graph.nodes:
        value = node.meta.get("val")
        if node.op == "call_function" and isinstance(value, Tensor):
            shape = [int(size) for size in value.shape]
            if rows in shape and columns in shape and (rows != columns or shape.count(rows) > 1):
                found.append(f"{node.target}: {shape}")
    return found


@every_family
def test_no_matrix_of_positions_is_built(family: Family) -> None:
    """What masks and biases were computed from is dead code once they are regions."""
    graph = compiled_graph(family.raw, *family.inputs())
    assert matrices(graph, family.queries, family.key_length) == []


def test_no_matrix_is_built_for_a_block_mask_made_inside() -> None:
    (family,) = (f for f in FAMILIES if f.name == "document")
    graph = compiled_graph(lambda q, k, v: family.flex(q, k, v, family.block_mask(block=32)), *family.inputs())
    assert matrices(graph, family.queries, family.key_length) == []
