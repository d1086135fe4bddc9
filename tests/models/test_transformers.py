"""What models of transformers need beyond right results: no masks in memory, keys skipped, generation with caches."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from models.zoo import ARCHITECTURES
from models.zoo_rows import LENGTH, tokens

import attir
from attir.compiler.backend import Backend
from attir.compiler.options import Options
from attir.compiler.target import load_target

pytest.importorskip("transformers")


def square_masks(code: torch.fx.GraphModule) -> list[str]:
    """The nodes of a compiled graph whose value is as large as queries times keys."""
    shapes = [(n, n.meta.get("val")) for n in code.graph.nodes]
    return [n.name for n, v in shapes if isinstance(v, torch.Tensor) and v.shape[-2:] == (LENGTH, LENGTH)]


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])
def test_no_square_mask_remains(kind: str, implementation: str) -> None:
    """What came from positions is computed inside the kernel."""
    model = ARCHITECTURES[kind].model(implementation)
    seen: list[torch.fx.GraphModule] = []
    backend = Backend(Options(strict=True))

    def listening(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        run: Any = backend(graph, inputs)
        seen.append(run.__self__)
        return run

    torch._dynamo.reset()
    with torch.no_grad():
        cast(Any, torch).compile(model, backend=listening)(tokens())
    (graph,) = seen
    assert square_masks(graph) == []
    assert sum("attir" in str(n.target) for n in graph.graph.nodes) == 2


def test_a_sliding_window_of_a_model_skips_keys() -> None:
    """Mistral's mask adds finfo.min, but no row is empty, so it becomes a mask."""
    torch._dynamo.reset()
    compiled = attir.compile(ARCHITECTURES["mistral"].model(), strict=True)
    with torch.no_grad():
        compiled(input_ids=tokens())
    assert all(" | " in s.form and "n > m - 7" in s.form for s in attir.explain(compiled).sites)


@pytest.mark.parametrize("cache", [None, "static"])
@pytest.mark.parametrize("implementation", ["eager", pytest.param("sdpa", marks=pytest.mark.slow)])
def test_generation_with_a_cache(implementation: str, cache: str | None) -> None:
    torch._dynamo.reset()
    model: Any = load_target("hf:llama", {"attn_implementation": implementation, "use_cache": True}).call
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = 0, None
    arguments: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False, "cache_implementation": cache}
    expected = model.generate(tokens(), **arguments)
    model.forward = attir.compile(model.forward, strict=True)
    assert torch.equal(model.generate(tokens(), **arguments), expected)
    report = attir.explain(model.forward)
    assert len(report.graphs) <= 3 and all(s.status == "fused" for s in report.sites), str(report)
    assert all("heads 4/2" in s.form for s in report.sites)
