"""The harness of benchmarks/raising.py counts what it says; how much is fused, and how fast, is not judged here."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from models import zoo, zoo_eager
from torch._dynamo.utils import counters

from benchmarks import raising
from benchmarks.raising import Missed, Row


class Plain(torch.nn.Module):
    """A spelling that Inductor knows, one that it does not, a call of the operator; and a softmax of no products."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        known = (x @ x.mT / 4).softmax(-1) @ x
        masked = (x @ x.mT * 0.25 + torch.ones(5, 5).tril().log()).softmax(-1) @ x
        called = torch.nn.functional.scaled_dot_product_attention(x, x, x)
        return known + masked + called + x.softmax(-1)


class Talking(torch.nn.Module):
    """Heads are mixed behind the softmax, which attir refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = torch.nn.Parameter(torch.eye(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = (x @ x.mT).softmax(-1)
        return torch.einsum("bhmn,hg->bgmn", weights, self.mix) @ x


X = {"x": torch.randn(1, 2, 5, 16, generator=torch.Generator().manual_seed(0))}


def architecture(model: torch.nn.Module, inputs: Mapping[str, torch.Tensor]) -> zoo.Architecture:
    def build(form: str) -> torch.nn.Module:
        if form == "sdpa":
            raise ValueError("Plain does not support an attention implementation through sdpa")
        return model

    return zoo.Architecture("plain", build, lambda padding: dict(inputs))


def test_attentions_are_counted_by_both_and_by_neither() -> None:
    row = raising.measure(architecture(Plain(), X), "vision", "eager")
    assert row is not None and not row.problem
    assert (row.attentions, row.sites, row.fused, row.unreported) == (3, 3, 3, 0)
    assert (row.patterns, row.operators) == (1, 2)
    assert row.graphs == 1 and row.error < 1e-5
    assert row.raising > 0 and row.dynamo > 0


def test_a_form_that_a_model_does_not_have_is_left_out() -> None:
    assert raising.measure(architecture(Plain(), X), "vision", "sdpa") is None


def test_a_model_that_does_not_run_is_told_of() -> None:
    row = raising.measure(architecture(Plain(), {"x": torch.ones(2, 3, 7, 5)}), "vision", "eager")
    assert row is not None and row.problem.startswith("RuntimeError: ")
    assert raising.remarks([row]) == [f"plain eager: {row.problem}"]


@pytest.mark.slow
def test_inductor_counts_as_in_a_full_compile() -> None:
    """The lowering that the benchmark leaves out counts nothing more."""
    for model in (Plain(), zoo.ARCHITECTURES["vit"].model(), zoo.ARCHITECTURES["llama"].model()):
        inputs = X if isinstance(model, Plain) else zoo.ARCHITECTURES[model.config.model_type].inputs("none")
        compilers, compile_it = raising.Compilers(), cast(Any, torch).compile
        with torch.no_grad():
            torch._dynamo.reset()
            compile_it(model, backend=compilers)(**inputs)
            torch._dynamo.reset()
            before = counters["inductor"]["fuse_attention"]
            # A graph that is found in Inductor's cache goes through no pass.
            with cast(Any, torch)._inductor.config.patch(force_disable_caches=True):
                compile_it(model)(**inputs)
        assert sum(g.patterns for g in compilers.graphs) == counters["inductor"]["fuse_attention"] - before


def attention(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.scaled_dot_product_attention(x, x, x)


def test_a_graph_that_runs_twice_counts_twice() -> None:
    compilers = raising.Compilers()
    layer = cast(Any, torch).compile(attention, backend=compilers)
    torch._dynamo.reset()
    with torch.no_grad():
        layer(layer(X["x"]))
    (graph,) = compilers.graphs
    assert (graph.runs, graph.operators, len(graph.sites)) == (2, 1, 1)


def test_mixed_heads_are_attention_to_neither_count() -> None:
    """Weights that go through a product with a parameter are no longer those of a softmax."""
    _, attentions = zoo_eager.run(Talking(), X)
    assert attentions == 0


def test_the_scores_alone_are_falsified() -> None:
    right, _ = zoo_eager.run(Plain(), X)
    wrong, _ = zoo_eager.run(Plain(), X, 0.5)
    x = X["x"]
    expected = (x @ x.mT / 8).softmax(-1) @ x * 2 + (x @ x.mT / 8 + torch.ones(5, 5).tril().log()).softmax(-1) @ x
    torch.testing.assert_close(wrong[0], expected + x.softmax(-1))
    assert not torch.allclose(right[0], wrong[0], atol=1e-2)


def test_a_table_sums_each_family_and_form() -> None:
    rows = [
        Row("a", "decoders", "eager", attentions=3, sites=2, fused=1, patterns=1, operators=2,
            missed=[Missed("a.py:7", "talking heads")], raising=1.5),
        Row("b", "vision", "eager", attentions=4, sites=4, fused=4),
        Row("a", "decoders", "sdpa", attentions=3, sites=3, fused=3, operators=3),
    ]  # fmt: skip
    lines = raising.table(rows).splitlines()[2:]
    assert lines == [
        "| decoders | eager | 1 | 3 | 1 | 2 | 1 |",
        "| vision | eager | 1 | 4 | 4 | 0 | 0 |",
        "| total | eager | 2 | 7 | 5 | 2 | 1 |",
        "| decoders | sdpa | 1 | 3 | 3 | 3 | 0 |",
        "| total | sdpa | 1 | 3 | 3 | 3 | 0 |",
    ]
    assert raising.remarks(rows) == [
        "a eager: a.py:7 not fused: talking heads",
        "a eager: 1 attentions unreported",
        "a eager: capture and raising took 1.50 s",
    ]


def test_names_choose_models_of_their_families() -> None:
    found = raising.chosen(["vit", "llama"], quick=False)
    assert {f: [a.name for a in rows] for f, rows in found.items() if rows} == {
        "decoders": ["llama"],
        "vision": ["vit"],
    }
    quick = raising.chosen([], quick=True)
    assert sum(map(len, quick.values())) == len(zoo.MUST_WORK) == 32
    with pytest.raises(SystemExit, match="no model 'lama'; there are llama, "):
        raising.chosen(["lama"], quick=False)


def test_it_prints_and_writes_what_it_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    plain = architecture(Plain(), X)
    monkeypatch.setattr(zoo, "FAMILIES", {"vision": (plain,)})
    monkeypatch.setattr(zoo, "ARCHITECTURES", {"plain": plain, raising.WARM_UP: plain})
    monkeypatch.setattr(raising, "quiet", lambda: None)
    path = tmp_path / "raising.json"
    assert raising.main(["--json", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "attir  3/3   Inductor  2/3  ( 1 by pattern)" in printed
    assert "| vision | eager | 1 | 3 | 3 | 2 | 1 |" in printed
    record = json.loads(path.read_text())
    (row,) = record["rows"]
    assert row["model"] == "plain" and row["fused"] == row["attentions"] == 3
    assert "torch" in record["versions"] and record["cpu"] and record["date"]
