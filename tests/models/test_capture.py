"""Capture, import and export without any pass in between leave real models' outputs bit-identical."""

# torch's own annotations are partial.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest
import torch
from torch import fx

from attir.compiler.capture import capture, placeholder_examples, restore_mutations
from attir.compiler.fx_export import export_graph
from attir.compiler.fx_import import Imported, import_graph
from attir.ir.core import Operation
from attir.ir.diagnostics import CompileError
from attir.ir.dialects.aten import AtenOp
from attir.ir.parser import parse_module
from attir.ir.printer import print_operation

transformers = pytest.importorskip("transformers")
SIZES: dict[str, dict[str, Any]] = {
    "llama": {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2},
    "gpt2": {"n_embd": 64, "n_head": 4, "n_layer": 2},
    "bert": {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4},
}


def no_site(op: Operation) -> int:
    raise AssertionError(f"nothing was raised, but {op.name} is fused")


class RoundTrip:
    """A backend that goes through the IR and back, and keeps what it imported."""

    def __init__(self) -> None:
        self.imported: list[Imported] = []

    def __call__(self, gm: fx.GraphModule, _: Sequence[Any]) -> Callable[..., Any]:
        captured = capture(gm, placeholder_examples(gm))
        imported = import_graph(captured.graph_module)
        self.imported.append(imported)
        exported = export_graph(imported.module, imported, no_site, captured.graph_module)
        restore_mutations(exported, captured.signature)
        return exported

    @property
    def text(self) -> str:
        return "".join(print_operation(i.module) for i in self.imported)


def run_both(function: Callable[..., Any], *inputs: Any, dynamic: bool | None = None) -> tuple[Any, Any, RoundTrip]:
    """The outputs of `function` in eager mode and through the round trip."""
    torch._dynamo.reset()
    backend = RoundTrip()
    compiled = torch.compile(function, backend=backend, dynamic=dynamic)
    with torch.no_grad():
        expected, actual = function(*inputs), compiled(*inputs)
    assert backend.imported, "nothing was captured"
    return expected, actual, backend


def tiny_model(kind: str, implementation: str) -> torch.nn.Module:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(
        kind, vocab_size=100, num_hidden_layers=2, attn_implementation=implementation, **SIZES[kind]
    )
    return transformers.AutoModel.from_config(config).eval()


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", list(SIZES))
def test_round_trip_of_a_model_is_bit_identical(kind: str, implementation: str, padded: bool) -> None:
    model = tiny_model(kind, implementation)
    ids = torch.randint(0, 100, (2, 16), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, 12:] = 0

    def forward(ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        return model(input_ids=ids, attention_mask=mask).last_hidden_state

    expected, actual, backend = run_both(forward, ids, mask if padded else None)
    assert torch.equal(expected, actual)
    for imported in backend.imported:
        assert_text_is_read_everywhere(imported.module)
    softmax = "aten.softmax.int" if implementation == "eager" else "aten.scaled_dot_product_attention"
    sites = [op for i in backend.imported for op in i.module.walk() if op.name == softmax]
    assert len(sites) == 2
    assert all(op.location.file.endswith(".py") and "/torch/" not in op.location.file for op in sites)


def assert_text_is_read_everywhere(module: Operation) -> None:
    """Our parser gives the same text back, and the real MLIR parser accepts it."""
    mlir: Any = pytest.importorskip("torch_mlir.ir")
    text = print_operation(module)
    assert print_operation(parse_module(text)) == text
    context = mlir.Context()
    context.allow_unregistered_dialects = True
    assert mlir.Module.parse(print_operation(module, locations=True), context).operation.verify()


def by_hand(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    causal = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).tril()
    return torch.softmax(scores.masked_fill(~causal, float("-inf")), dim=-1) @ v


def test_dynamic_sizes_stay_symbols_with_bounds() -> None:
    q, k, v = (torch.randn(2, 3, 8, 16) for _ in range(3))
    expected, actual, backend = run_both(by_hand, q, k, v, dynamic=True)
    assert torch.equal(expected, actual)
    assert_text_is_read_everywhere(backend.imported[0].module)
    assert "#attir.sym<" in backend.text
    assert "attir.bounds = {" in backend.text


def split_and_chunk(x: torch.Tensor) -> tuple[torch.Tensor, int, None, torch.Tensor]:
    a, b, _ = x.split([3, 2, 3], dim=-1)
    values, indices = torch.topk(torch.cat(x.chunk(2, dim=-1)), 2)
    return a.sum(-1) * b.sum(-1), x.shape[0], None, values * indices


@pytest.mark.parametrize("dynamic", [None, True])
def test_ops_with_several_results(dynamic: bool | None) -> None:
    expected, actual, backend = run_both(split_and_chunk, torch.randn(4, 8), dynamic=dynamic)
    assert torch.equal(expected[0], actual[0]) and torch.equal(expected[3], actual[3])
    assert actual[1:3] == (4, None)
    assert "fx.getitem" not in backend.text


class Cached(torch.nn.Module):
    """A decoder step that writes into its static cache and reads it back."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("cache", torch.zeros(1, 2, 8, 4))
        self.cache: torch.Tensor

    def forward(self, x: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        self.cache.index_copy_(2, position, x)
        self.cache[:, :, 0] += 1
        return x @ self.cache.transpose(-1, -2)


def test_a_mutated_cache_is_written_back() -> None:
    x, position = torch.randn(1, 2, 2, 4), torch.tensor([3, 5])
    reference = Cached()
    with torch.no_grad():
        expected = [reference(x, position), reference(x + 1, position + 1)]
    torch._dynamo.reset()
    model = Cached()
    compiled = cast(Callable[..., torch.Tensor], torch.compile(model, backend=RoundTrip()))
    with torch.no_grad():
        actual = [compiled(x, position), compiled(x + 1, position + 1)]
    assert all(map(torch.equal, expected, actual))
    assert torch.equal(reference.cache, model.cache)


def counts_and_returns_itself(counter: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    counter.add_(1)
    return counter.view(-1), x * counter


def test_a_view_of_a_mutated_input_stays_a_view() -> None:
    torch._dynamo.reset()
    counter, x = torch.zeros(2, 2), torch.ones(2, 2)
    compiled = torch.compile(counts_and_returns_itself, backend=RoundTrip())
    with torch.no_grad():
        view, product = compiled(counter, x)
    assert torch.equal(counter, x) and torch.equal(product, x)
    counter.add_(5)
    assert torch.equal(view, counter.view(-1))


def shifted_view(counter: torch.Tensor) -> torch.Tensor:
    counter.add_(1)
    return counter[1:]


def test_a_graph_that_cannot_be_made_functional_is_refused_in_words() -> None:
    found: list[str] = []

    def backend(gm: fx.GraphModule, _: Sequence[Any]) -> Callable[..., Any]:
        with pytest.raises(CompileError) as caught:
            capture(gm, placeholder_examples(gm))
        found.append(str(caught.value))
        return gm.forward

    torch._dynamo.reset()
    with torch.no_grad():
        torch.compile(shifted_view, backend=backend)(torch.zeros(4))
    assert "is a view of input 'l_counter_', which the graph mutates" in found[0]


def test_arguments_are_read_by_schema_name() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        return torch.ops.aten.add.Tensor(torch.arange(4, dtype=torch.float16), x, alpha=2)

    _, _, backend = run_both(function, torch.randn(4))
    ops = {op.name: AtenOp(op) for op in backend.imported[0].module.walk()}
    add = ops["aten.add.Tensor"]
    assert add.argument("alpha") == 2
    assert add.operand("self") is ops["aten.arange"].out
    assert str(ops["aten.arange"].argument("dtype")) == "f16"
