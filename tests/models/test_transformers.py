"""Real models of transformers, randomly initialised: every site fused, results as eager's."""

from __future__ import annotations

import copy
import unittest.mock
from typing import Any, cast

import pytest
import torch
from torch.nn import functional

import attir
from attir.compiler.backend import Backend
from attir.compiler.options import Options
from attir.compiler.target import load_target

LENGTH = 21
MODELS = ("llama", "gpt2", "bert")


def model_of(kind: str, implementation: str, dtype: torch.dtype = torch.float32) -> Any:
    model: Any = load_target(f"hf:{kind}", {"attn_implementation": implementation}).call
    return model.to(dtype)


def result_of(output: Any) -> torch.Tensor:
    return output.logits if hasattr(output, "logits") else output.last_hidden_state


def padding(side: str, batch: int) -> torch.Tensor | None:
    """A 2-D attention mask in which the second row is shorter."""
    if side == "none":
        return None
    mask = torch.ones(batch, LENGTH, dtype=torch.long)
    mask[1, : LENGTH // 3] = side != "left"
    mask[1, -(LENGTH // 3) :] = side != "right"
    return mask


def square_masks(code: torch.fx.GraphModule) -> list[str]:
    """The nodes of a compiled graph whose value is as large as queries times keys."""
    shapes = [(n, n.meta.get("val")) for n in code.graph.nodes]
    return [n.name for n, v in shapes if isinstance(v, torch.Tensor) and v.shape[-2:] == (LENGTH, LENGTH)]


@pytest.mark.parametrize("side", ["none", "left", "right"])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", MODELS)
def test_every_site_is_fused_and_agrees(kind: str, implementation: str, side: str) -> None:
    model = model_of(kind, implementation)
    tokens = torch.randint(0, 100, (2, LENGTH), generator=torch.Generator().manual_seed(0))
    mask = padding(side, 2)
    arguments = {} if mask is None else {"attention_mask": mask}
    compiled = attir.compile(model, strict=True)
    with torch.no_grad():
        ours = result_of(compiled(tokens, **arguments))
        eager = result_of(model(tokens, **arguments))
        precise = in_double(model, tokens, arguments)
    sites = attir.explain(compiled).sites
    assert len(sites) == 2 and all(site.status == "fused" for site in sites)
    kept = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask.bool()
    error, eager_error = ((x.double() - precise)[kept].abs().max().item() for x in (ours, eager))
    assert error <= 2 * eager_error + 1e-6
    moved = result_of_scaled(model, tokens, arguments)
    assert (moved - eager)[kept].abs().max() > 1e-3, "the test cannot see the attention at all"


def in_double(model: Any, tokens: torch.Tensor, arguments: dict[str, Any]) -> torch.Tensor:
    """The model in float64 throughout: transformers' own casts of the softmax to f32 are left out."""
    softmax = functional.softmax

    def wide(x: torch.Tensor, dim: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        del dtype
        return softmax(x, dim=dim)

    with unittest.mock.patch.object(functional, "softmax", wide):
        return result_of(copy.deepcopy(model).double()(tokens, **arguments))


def result_of_scaled(model: Any, tokens: torch.Tensor, arguments: dict[str, Any]) -> torch.Tensor:
    """The model's result with every score multiplied by 0.9."""
    other = copy.deepcopy(model)
    for module in other.modules():
        for name in ("scaling", "scale"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, getattr(module, name) * 0.9)
    with torch.no_grad():
        return result_of(other(tokens, **arguments))


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", MODELS)
def test_no_square_mask_remains(kind: str, implementation: str) -> None:
    """What came from positions is computed inside the kernel."""
    model = model_of(kind, implementation)
    seen: list[torch.fx.GraphModule] = []
    backend = Backend(Options(strict=True))

    def listening(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        run: Any = backend(graph, inputs)
        seen.append(run.__self__)
        return run

    torch._dynamo.reset()  # pyright: ignore[reportPrivateUsage]
    with torch.no_grad():
        cast(Any, torch).compile(model, backend=listening)(torch.randint(0, 100, (2, LENGTH)))
    (graph,) = seen
    assert square_masks(graph) == []
    assert sum("attir" in str(n.target) for n in graph.graph.nodes) == 2
