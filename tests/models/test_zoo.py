"""Models of transformers in every form, number type and padding: all attention fused, results as close as eager's.

Bound: twice the largest error of eager against the same model in float64, plus a few roundings of the
largest result; and no further from eager, on the way to what scores that are wrong by 1 % give, than
half of it. Rows that are padding are compared like all others: a model computes something for them,
and attir computes the same.
"""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pytest
import torch
from models import zoo_eager
from models.zoo import ARCHITECTURES, MUST_WORK
from models.zoo_rows import FORMS

import attir
from attir.compiler.report import Report

pytest.importorskip("transformers")
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
WRONG = 0.99
"""What scores are multiplied by to see whether the comparison notices."""
EAGER_ONLY = {"gemma2", "gptj", "bloom", "mpt", "gpt_oss", "mpnet"}
"""transformers has no other form of these."""
Results = Sequence[torch.Tensor]


@dataclass(frozen=True)
class Case:
    """One model, as it is called."""

    name: str
    form: str
    dtype: str
    padding: str

    def __str__(self) -> str:
        return f"{self.name}-{self.form}-{self.dtype}-{self.padding}"


def cases(names: Sequence[str]) -> list[Case]:
    """Every combination; a padding is on the side where the model's users have it."""
    found: list[Case] = []
    for name in names:
        sides = ARCHITECTURES[name].paddings
        paddings = ("none", "left" if "left" in sides else "right")[: len(sides)]
        forms = FORMS[:1] if name in EAGER_ONLY else FORMS
        found += [Case(name, *rest) for rest in itertools.product(forms, DTYPES, paddings)]
    return found


def covering(all_cases: Sequence[Case]) -> set[Case]:
    """One case of each model, going through the forms, number types and paddings."""
    by_name = itertools.groupby(all_cases, lambda case: case.name)
    groups = [list(group) for _, group in by_name]
    return {group[(3 * i) % len(group)] for i, group in enumerate(groups)}


CASES = cases(MUST_WORK)
FAST = covering(CASES)
MORE = [Case("llama", form, "f32", "right") for form in FORMS] + [
    case for case in cases(("mixtral", "phi", "opt", "roberta")) if case.dtype == "f32"
]
"""Padding on the side where a decoder seldom has it, and models beyond those that must work."""


@dataclass(frozen=True)
class Comparison:
    """What results are compared with: those of eager, and in float64 those that are right and those of wrong scores."""

    eager: Results
    exact: Results
    wrong: Results

    @staticmethod
    def of(model: Any, inputs: Mapping[str, torch.Tensor], eager: Results) -> Comparison:
        exact, wrong = (zoo_eager.run_wide(model, inputs, factor) for factor in (1.0, WRONG))
        return Comparison(eager, exact, wrong)

    def problem(self, ours: Results) -> str:
        """What is wrong with `ours`; nothing if they are right."""
        if [(x.shape, x.dtype) for x in ours] != [(x.shape, x.dtype) for x in self.eager]:
            return "there are other results than eager's"
        found = map(_beyond_rounding, ours, self.eager, self.exact)
        if told := "; ".join(f"result {i}: {text}" for i, text in enumerate(found) if text):
            return told
        share = self.share(ours)
        return f"{share:.2f} of the effect of wrong scores" if abs(share) > 0.5 else ""

    def share(self, ours: Results) -> float:
        """How far `ours` are from eager's on the way to what wrong scores give: 1 where they are as wrong.

        Rounding points all ways in many elements, so that little of it is left; an error in the
        scores points one way. Each result counts by its size.
        """
        sizes = [exact.abs().max().clamp_min(1e-300) for exact in self.exact]
        apart = _joined([(x.double() - y) / size for x, y, size in zip(ours, self.eager, sizes, strict=True)])
        way = _joined([(x - y) / size for x, y, size in zip(self.wrong, self.exact, sizes, strict=True)])
        return (apart.dot(way) / way.dot(way)).item()


def _joined(results: Results) -> torch.Tensor:
    return torch.cat([x.flatten() for x in results])


def _beyond_rounding(ours: torch.Tensor, eager: torch.Tensor, exact: torch.Tensor) -> str:
    assert exact.isfinite().all()
    error, eager_error = ((x.double() - exact).abs().max() for x in (ours, eager))
    bound = 2 * eager_error + 2e-6 * exact.abs().max()
    return "" if error <= bound else f"error {error:.1e}, bound {bound:.1e}"


def eager_graphs(model: Any, inputs: Mapping[str, torch.Tensor]) -> int:
    """How many graphs Dynamo makes of a model when attir is not there."""
    seen: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _: object) -> Any:
        seen.append(graph)
        return graph.forward

    torch._dynamo.reset()
    cast(Any, torch).compile(model, backend=backend)(**inputs)
    return len(seen)


def assert_fused(report: Report, attentions: int) -> None:
    assert attentions > 0
    assert [s.status for s in report.sites] == ["fused"] * attentions, str(report)


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=() if c in FAST else pytest.mark.slow) for c in [*CASES, *MORE]], ids=str
)
def test_every_attention_is_fused_and_right(case: Case) -> None:
    torch._dynamo.reset()
    architecture, dtype = ARCHITECTURES[case.name], DTYPES[case.dtype]
    model = architecture.model(case.form, dtype)
    inputs = zoo_eager.in_dtype(architecture.inputs(case.padding), dtype)
    eager, attentions = zoo_eager.run(model, inputs)
    comparison = Comparison.of(model, inputs, eager)
    falsified, _ = zoo_eager.run(model, inputs, WRONG)
    assert comparison.problem(falsified), "scores that are wrong by 1 % would not be noticed"

    compiled = attir.compile(model, strict=True)
    with torch.no_grad():
        ours = zoo_eager.results(compiled(**inputs))
        assert not comparison.problem(ours)
        report = attir.explain(compiled)
        assert_fused(report, attentions)
        # A single graph has no break; only where there are more can eager torch.compile have fewer.
        assert len(report.graphs) == 1 or len(report.graphs) == eager_graphs(model, inputs)


def test_the_cases_cover_every_model_form_number_type_and_padding() -> None:
    assert {c.name for c in FAST} == set(MUST_WORK)
    for names in ("form", "dtype", "padding"):
        assert {getattr(c, names) for c in FAST} == {getattr(c, names) for c in CASES}


@pytest.mark.parametrize("name", sorted(EAGER_ONLY))
def test_models_without_another_form(name: str) -> None:
    with pytest.raises(ValueError, match="does not support an attention implementation"):
        ARCHITECTURES[name].model("sdpa")
