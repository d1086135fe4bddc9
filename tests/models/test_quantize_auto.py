"""`quantize="auto"`: calibration gives each site a scheme, and the outputs of the whole stay within the budget."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from models.zoo_rows import redraw
from torch.nn.functional import scaled_dot_product_attention

import attir
from attir import masks
from attir.compiler import quantize_calibration
from attir.compiler.api import backend_of
from attir.compiler.calibration import Calibration
from attir.compiler.host_cpu import host_has_byte_dots, host_target
from attir.compiler.native_support import native_problem
from attir.compiler.quantize_calibration import AIM, QuantizeChoice
from attir.compiler.report import Report
from attir.compiler.schemes import Scheme, scheme
from attir.cost_model.quantization import EXACT, Precision
from attir.sparsity import select

pytestmark = pytest.mark.skipif(bool(native_problem()), reason="native kernels do not run here")

CACHES = {name: scheme(name) for name in ("kv8", "kv6", "kv4", "kv2")}


@pytest.fixture
def fewer_bits_are_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Predictions as for caches that are in few bits already: to make one costs more than a call can save."""

    def predicted(work: object, precision: Precision, rates: object) -> float:
        return 1.0 if precision == EXACT or precision.value is None else precision.value.bits / 32

    monkeypatch.setattr(quantize_calibration, "predicted_seconds", predicted)


def compiled(function: Any, max_error: float, schemes: Mapping[str, Scheme] = CACHES, **options: Any) -> Any:
    """`function`, with these schemes to choose from."""
    torch._dynamo.reset()
    run = attir.compile(function, strict=True, quantize="auto", max_error=max_error, **options)
    calibration_of(run).method = QuantizeChoice(schemes)
    return run


def calibration_of(run: Any) -> Calibration:
    backend = backend_of(run)
    assert backend is not None and backend.calibration is not None
    return backend.calibration


def exact(function: Any) -> Any:
    torch._dynamo.reset()
    return attir.compile(function, strict=True)


def causal(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def problem(seed: int = 0, length: int = 100) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(2, heads, length, 32, generator=draw) for heads in (4, 2, 2))
    return q, k, v


def best(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return causal(q, k, v).argmax(-1)


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    wrong, whole = (found.double() - wanted.double()).square().sum(), wanted.double().square().sum()
    return float((wrong / whole).sqrt())


def llama(layers: int = 4, tokens: int = 128) -> tuple[Any, Callable[[int], dict[str, torch.Tensor]]]:
    """A model whose weights spread its scores, and its inputs by seed."""
    transformers: Any = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=128, intermediate_size=128, num_hidden_layers=layers, num_attention_heads=4, vocab_size=128,
        num_key_value_heads=2, use_cache=False, attn_implementation="sdpa", max_position_embeddings=4096,
    )  # fmt: skip
    torch.manual_seed(0)  # pyright: ignore[reportUnknownMemberType]
    model = transformers.LlamaModel(config).eval().requires_grad_(False)
    redraw(model)

    def inputs(seed: int) -> dict[str, torch.Tensor]:
        return {"input_ids": torch.randint(128, (1, tokens), generator=torch.Generator().manual_seed(seed))}

    return model, inputs


def taken(report: Report) -> list[str]:
    """What each site takes, by name."""
    first = [site.quantize[0] for site in report.sites]
    return [line.split("takes ")[1].split(" (")[0] if "takes" in line else "exact" for line in first]


# --- a scheme with a budget


@torch.no_grad()  # pyright: ignore[reportUntypedFunctionDecorator]
def test_a_scheme_by_name_goes_to_as_many_sites_as_its_budget_lets() -> None:
    q, k, v = problem()
    wanted = exact(causal)(q, k, v)
    torch._dynamo.reset()
    run = attir.compile(causal, strict=True, quantize="kv6", max_error=0.2)
    with pytest.raises(attir.CompileError, match=r"quantize='kv6' chooses within max_error .* call attir.calibrate"):
        run(q, k, v)
    report = attir.calibrate(run, [(q, k, v)])
    # It is slower than exact attention, and was asked for all the same.
    assert taken(report) == ["kv6"] and "quantize='kv6': 1 of 1 sites are not exact" in report.notes[0]
    assert 1e-3 < error(run(q, k, v), wanted) < 0.2
    strict = attir.compile(causal, strict=True, quantize="kv1", max_error=1e-4)
    report = attir.calibrate(strict, [(q, k, v)])
    assert taken(report) == ["exact"] and "all 1 sites stay exact: it fits none of them" in report.notes[0]
    assert torch.equal(strict(q, k, v), wanted)


# --- whole models


@torch.no_grad()  # pyright: ignore[reportUntypedFunctionDecorator]
@pytest.mark.usefixtures("fewer_bits_are_faster")
def test_the_budget_holds_on_inputs_that_calibration_has_not_seen() -> None:
    model, inputs = llama()
    plain, chosen = exact(model), list[list[str]]()
    run = compiled(model, 1.0)
    for budget in (0.3, 0.05, 0.01):
        calibration_of(run).max_error = budget
        begin = time.monotonic()
        report = attir.calibrate(run, [inputs(0), inputs(1)])
        assert time.monotonic() - begin < 120
        chosen.append(taken(report))
        assert len(chosen[-1]) == 4 and "max_error" in report.notes[0]
        errors = [error(run(**inputs(s)).last_hidden_state, plain(**inputs(s)).last_hidden_state) for s in range(6)]
        assert max(errors[:2]) <= AIM * budget and max(errors) <= budget, errors
    bits = {"kv8": 8, "kv6": 6, "kv4": 4, "kv2": 2, "exact": 32}
    totals = [sum(bits[name] for name in names) for names in chosen]
    assert totals == sorted(totals) and totals[0] < totals[2] < 4 * 32, chosen
    assert any(len(set(names)) > 1 for names in chosen), "every layer is as sensitive as the next"


@pytest.mark.usefixtures("fewer_bits_are_faster")
def test_a_choice_repeats_and_can_be_made_anew() -> None:
    model, inputs = llama(layers=2, tokens=64)
    run = compiled(model, 0.05)
    first = taken(attir.calibrate(run, [inputs(0)]))
    assert taken(attir.calibrate(run, [inputs(0)])) == first
    assert len(attir.explain(run).graphs) == 1
    assert taken(attir.calibrate(compiled(model, 0.05), [inputs(0)])) == first


@pytest.mark.slow
def test_standard_schemes_are_searched_in_time_by_predictions_of_this_machine() -> None:
    model, inputs = llama(tokens=1024)
    torch._dynamo.reset()
    run: Any = attir.compile(model, strict=True, quantize="auto", max_error=0.02)
    begin = time.monotonic()
    report = attir.calibrate(run, [inputs(0)])
    assert time.monotonic() - begin < 120
    for site in report.sites:
        told = "\n".join(site.quantize)
        assert all(name in told for name in quantize_calibration.standard_schemes()), told
    found, plain = run(**inputs(1)).last_hidden_state, exact(model)(**inputs(1)).last_hidden_state
    assert error(found, plain) <= 0.02


# --- single functions


@pytest.mark.usefixtures("fewer_bits_are_faster")
def test_nothing_runs_before_calibration_and_the_cheapest_that_fits_runs_after() -> None:
    run = compiled(causal, 0.1)
    with pytest.raises(attir.CompileError, match=r"quantize='auto' chooses within max_error.*attir\.calibrate"):
        run(*problem())
    report = attir.calibrate(run, [problem(0), problem(1)])
    errors = {name: measured(causal, name) for name in CACHES}
    fits = [name for name in CACHES if errors[name] <= AIM * 0.1]
    assert taken(report) == [fits[-1]] and fits[-1] != "kv2" and fits[-1] != "kv8"
    text = str(attir.explain(run))
    assert text.startswith("quantize='auto': 1 of 1 sites are not exact") and "takes kv" in text
    assert "predicted  measured" in text and '"notes"' in report.to_json()
    assert 0 < error(run(*problem(2)), exact(causal)(*problem(2))) <= 0.1
    assert "quantize='auto': 1 of 1" in str(attir.explain(run, problem(2)))


def measured(function: Any, name: str) -> float:
    """The error of a scheme on the batches above: that of the worse one."""
    torch._dynamo.reset()
    run: Any = attir.compile(function, quantize=name)
    return max(error(run(*problem(s)), function(*problem(s))) for s in (0, 1))


@pytest.mark.parametrize(("offset", "expected"), [(0.0, "int8, not smoothed"), (20.0, "int8")])
def test_products_of_bytes_are_taken_as_they_pay_and_keys_lose_their_mean_where_that_is_needed(
    offset: float, expected: str
) -> None:
    if not host_has_byte_dots(host_target()):
        pytest.skip("this CPU has no products of bytes, so they never pay")

    def full(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return scaled_dot_product_attention(q, k, v)

    def inputs(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        draw = torch.Generator().manual_seed(seed)
        q, k, v = (torch.randn(1, 8, 1024, 64, generator=draw) for _ in range(3))
        k[..., :4] += offset
        return q, k, v

    schemes = {name: s for name, s in quantize_calibration.standard_schemes().items() if name.startswith("int8")}
    run = compiled(full, 0.03, schemes)
    assert taken(attir.calibrate(run, [inputs(0)])) == [expected]
    assert 0 < error(run(*inputs(1)), exact(full)(*inputs(1))) <= 0.03


@pytest.mark.usefixtures("fewer_bits_are_faster")
def test_a_budget_that_nothing_meets_leaves_all_exact_and_says_so() -> None:
    run = compiled(causal, 1e-7)
    report = attir.calibrate(run, [problem()])
    assert taken(report) == ["exact"]
    assert "all 1 sites stay exact: nothing that is predicted to be faster fits" in report.notes[0]
    assert torch.equal(run(*problem(1)), exact(causal)(*problem(1)))


def test_what_is_predicted_to_be_slower_is_never_taken() -> None:
    run = compiled(causal, 0.9)
    report = attir.calibrate(run, [problem()])
    assert taken(report) == ["exact"] and "kv8" in str(report)


@pytest.mark.usefixtures("fewer_bits_are_faster")
def test_a_scheme_that_cannot_run_somewhere_is_told_with_the_reason() -> None:
    basis = torch.randn(1, 7, 4)
    given = {**CACHES, "odd": scheme("kv8", value_rank=4, tensors={"value_basis": basis})}
    report = attir.calibrate(compiled(causal, 0.1, given), [problem()])
    assert "odd cannot run here: " in str(report) and taken(report) != ["exact"]
    only = attir.calibrate(compiled(causal, 0.1, {"odd": given["odd"]}), [problem()])
    assert taken(only) == ["exact"] and "odd cannot run here: " in str(only)


@pytest.mark.usefixtures("fewer_bits_are_faster")
@pytest.mark.parametrize("sparsity", [masks.window(20), select("quest", keep=0.5, block=16, rows=16)])
def test_what_the_user_leaves_out_stays_so(sparsity: Any) -> None:
    run = compiled(causal, 0.1, sparsity=sparsity)
    attir.calibrate(run, [problem()])
    torch._dynamo.reset()
    plain: Any = attir.compile(causal, sparsity=sparsity)
    assert 0 < error(run(*problem(1)), plain(*problem(1))) <= 0.1


@pytest.mark.usefixtures("fewer_bits_are_faster")
def test_a_site_that_calibration_did_not_reach_stays_exact() -> None:
    def either(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, first: bool) -> torch.Tensor:
        if first:
            return causal(q, k, v)
        return scaled_dot_product_attention(q, k, v, scale=0.5, enable_gqa=True)

    run = compiled(either, 0.1)
    attir.calibrate(run, [(*problem(), True)])
    assert torch.equal(run(*problem(), False), exact(either)(*problem(), False))
    assert "stays exact: calibration inputs did not reach it" in str(attir.explain(run))
    assert not torch.equal(run(*problem(), True), exact(either)(*problem(), True))


@pytest.mark.usefixtures("fewer_bits_are_faster")
def test_calls_without_keys_or_queries_are_exact() -> None:
    run = compiled(causal, 0.1, dynamic=True)
    q, k, v = problem()
    attir.calibrate(run, [(q, k, v), (q[:, :, :0], k, v)])
    assert run(q[:, :, :0], k, v).shape == (2, 4, 0, 32)
    assert not run(q, k[:, :, :0], v[:, :, :0]).any()


# --- what cannot be calibrated


def test_there_must_be_batches() -> None:
    with pytest.raises(attir.CompileError, match="calibration needs at least one batch, but there are none"):
        attir.calibrate(compiled(causal, 0.1), [])


def test_batches_without_attention_leave_nothing_to_choose() -> None:
    def sometimes(x: torch.Tensor) -> torch.Tensor:
        return scaled_dot_product_attention(x, x, x) if x.dim() == 4 else 2 * x

    run = compiled(sometimes, 0.1)
    report = attir.calibrate(run, [torch.ones(3)])
    assert "no attention ran on the calibration inputs" in report.notes[0]
    q, _, _ = problem()
    assert torch.equal(run(q), exact(sometimes)(q))


@pytest.mark.usefixtures("fewer_bits_are_faster")
def test_numbers_that_are_none() -> None:
    """Rows that are nan anyway say nothing; where all are, or no output is a number, there is no error to measure."""
    q, k, v = problem()
    run = compiled(causal, 0.1)
    odd = q.clone()
    odd[0, 0, 3] = torch.nan
    assert taken(attir.calibrate(run, [(odd, k, v)])) != ["exact"]
    before = taken(attir.calibrate(run, [(q, k, v)]))
    with pytest.raises(attir.CompileError, match="those of batch 1 are nan or infinite throughout"):
        attir.calibrate(run, [(q, k, v), (q * torch.nan, k, v)])
    assert taken(attir.explain(run)) == before and 0 < error(run(q, k, v), exact(causal)(q, k, v)) <= 0.1
    with pytest.raises(attir.CompileError, match="batch 0 gave no tensor of floats"):
        attir.calibrate(compiled(best, 0.1), [(q, k, v)])


@pytest.mark.usefixtures("fewer_bits_are_faster")
def test_outputs_that_change_by_themselves_leave_all_exact() -> None:
    def noisy(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        out = causal(q, k, v)
        return out + torch.randn_like(out)

    report = attir.calibrate(compiled(noisy, 0.1), [problem()])
    assert taken(report) == ["exact"] and "two exact runs of one batch differ by" in report.notes[0]


@pytest.mark.usefixtures("fewer_bits_are_faster")
def test_a_batch_that_fails_leaves_the_choice_before() -> None:
    run = compiled(causal, 0.1)
    before = taken(attir.calibrate(run, [problem()]))
    out = run(*problem())
    with pytest.raises(Exception, match="required positional argument"):
        attir.calibrate(run, [problem(), problem()[:2]])
    assert torch.equal(run(*problem()), out) and set(taken(attir.explain(run))) == set(before)


@pytest.mark.usefixtures("fewer_bits_are_faster")
def test_caches_among_the_arguments_are_as_before_in_every_run() -> None:
    def grows(q: torch.Tensor, cache: dict[str, torch.Tensor]) -> torch.Tensor:
        cache["k"] = torch.cat([cache["k"], q[:, ::2]], 2)
        return scaled_dot_product_attention(q, cache["k"], cache["k"], enable_gqa=True)

    q, k, _ = problem()
    cache = {"k": k}
    report = attir.calibrate(compiled(grows, 0.2), [(q, cache)])
    assert cache["k"] is k and taken(report) != ["exact"]


def test_a_backend_by_name_cannot_be_calibrated() -> None:
    torch._dynamo.reset()
    options: dict[str, Any] = {"quantize": "auto", "max_error": 0.1}
    run: Any = torch.compile(causal, backend="attir", options=options)  # pyright: ignore[reportUnknownMemberType]
    with pytest.raises(attir.CompileError, match=r"quantize='auto' is calibrated on what attir\.compile returns"):
        run(*problem())
