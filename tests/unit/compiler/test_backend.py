"""The backend fuses what it can, refuses the rest in words, and never changes results."""

# torch's own annotations are partial.
# pyright: reportUnknownMemberType=false, reportPrivateUsage=false

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from unit.compiler.reference_site import reference_site

import attir
from attir.compiler import backend as backend_module
from attir.compiler.backend import Backend
from attir.compiler.options import Options
from attir.compiler.report import shortened
from attir.cost_model.problem import Sizes

Q, K, V = (torch.randn(2, 4, 8, 16, generator=torch.Generator().manual_seed(i)) for i in range(3))
SLOPES = torch.tensor([0.5, 0.25, 0.125, 0.0625])


@pytest.fixture(autouse=True)
def reference_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Sites run in the reference interpreter, and Dynamo forgets other tests."""
    monkeypatch.setattr(backend_module, "_own_site_compiler", lambda: reference_site)
    torch._dynamo.reset()
    with torch.no_grad():
        yield


def by_hand(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, dim=-1) @ v


def alibi_window(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, slopes: torch.Tensor) -> torch.Tensor:
    m, n = torch.arange(q.shape[-2])[:, None], torch.arange(k.shape[-2])[None, :]
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 - slopes[:, None, None] * (m - n)
    scores = scores.masked_fill(~((n <= m) & (m - n < 4)), float("-inf"))
    return torch.softmax(scores, dim=-1) @ v


def sdpa(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    return out.transpose(1, 2).reshape(q.shape[0], q.shape[2], -1)


class Attention(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.projection = torch.nn.Linear(16, 16)

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return by_hand(self.projection(q), k, v)

    def method(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return sdpa(self.projection(q), k, v)


def assert_close(function: Callable[..., torch.Tensor], compiled: Callable[..., torch.Tensor], *inputs: Any) -> None:
    """The compiled result is within twice eager's own distance from float64, plus rounding of one ulp."""
    expected = function(*inputs)
    doubled = [x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in inputs]
    model = getattr(function, "__self__", function)
    exact = function(*doubled) if not isinstance(model, torch.nn.Module) else expected.double()
    bound = 2 * (expected - exact).abs().max() + 1e-6
    assert (compiled(*inputs) - exact).abs().max() <= bound


# Inductor takes seconds, so it sees the harder of the two only.
@pytest.mark.parametrize(("dynamic", "rest"), [(None, "eager"), (True, "eager"), (True, "inductor")])
@pytest.mark.parametrize(("function", "captures"), [(by_hand, ()), (alibi_window, (SLOPES,)), (sdpa, ())])
def test_sites_are_fused_and_agree(
    function: Callable[..., torch.Tensor], captures: tuple[torch.Tensor, ...], dynamic: bool | None, rest: str
) -> None:
    compiled = attir.compile(function, dynamic=dynamic, strict=True, rest=rest)
    assert_close(function, compiled, Q, K, V, *captures)
    (site,) = attir.explain(compiled).sites
    assert (site.status, site.reason) == ("fused", "")
    assert Path(site.location.rpartition(":")[0]).name == "test_backend.py"


def test_one_kernel_serves_other_sizes() -> None:
    compiled = attir.compile(by_hand, dynamic=True, strict=True)
    # Sizes that are equal in the first call share a symbol, so the first lengths differ.
    for length in (7, 5, 8):
        assert_close(by_hand, compiled, Q[:, :, :length].contiguous(), K, V)
    assert len(attir.explain(compiled).graphs) == 1


def test_a_second_capture_says_why() -> None:
    compiled = attir.compile(by_hand, dynamic=False)
    compiled(Q, K, V)
    compiled(Q[:, :, :5], K, V)
    first, second = attir.explain(compiled).graphs
    assert first.cause == "first capture"
    assert "size mismatch" in second.cause


def test_modules_methods_and_decorators_are_compiled_and_explained() -> None:
    model = Attention().eval()
    compiled = attir.compile(model)
    assert_close(model, compiled, Q, K, V)
    assert "_orig_mod.projection.weight" in compiled.state_dict()
    method = attir.compile(model.method)
    assert_close(model.method, method, Q, K, V)

    @attir.compile(strict=True)
    def decorated(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return by_hand(q, k, v)

    assert_close(by_hand, decorated, Q, K, V)
    for subject in (compiled, method, decorated):
        assert [s.status for s in attir.explain(subject).sites] == ["fused"]


def test_an_exported_program_is_compiled() -> None:
    model = Attention().eval()
    compiled = attir.compile(torch.export.export(model, (Q, K, V)), strict=True)  # pyright: ignore[reportCallIssue, reportArgumentType, reportUnknownVariableType]
    assert_close(model, compiled, Q, K, V)


def test_before_the_first_call_nothing_is_known() -> None:
    assert "nothing was captured yet" in str(attir.explain(attir.compile(by_hand)))


def test_the_report_prints_and_serialises() -> None:
    compiled = attir.compile(alibi_window)
    compiled(Q, K, V, SLOPES)
    report = attir.explain(compiled)
    (site,) = report.sites
    assert site.form == "softmax(q·k/√d - slopes[h]·(m - n) | n ≤ m ∧ m - n < 4) v"
    assert site.kernel_source and site.form in str(report) and shortened(site.location) in str(report)
    assert json.loads(site.to_json()) == json.loads(report.to_json())["graphs"][0]["sites"][0]
    assert json.loads(report.to_json())["graphs"][0]["sites"][0]["plan"] == {"block_m": 64}


def test_needed_gradients_are_kept_and_the_refusal_says_so() -> None:
    compiled = attir.compile(by_hand)
    inputs = [t.clone().requires_grad_() for t in (Q, K, V)]
    expected = [t.clone().requires_grad_() for t in (Q, K, V)]
    with torch.enable_grad():
        compiled(*inputs).sum().backward()
        by_hand(*expected).sum().backward()
    assert all(
        x.grad is not None and y.grad is not None and torch.equal(x.grad, y.grad)
        for x, y in zip(inputs, expected, strict=True)
    )
    (site,) = attir.explain(compiled).sites
    assert site.status == "refused" and "call under torch.no_grad()" in site.reason
    with torch.enable_grad(), pytest.raises(attir.CompileError, match="inference only"):
        attir.compile(by_hand, strict=True)(*inputs)


def returns_weights(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    weights = torch.softmax(q @ k.transpose(-1, -2), dim=-1)
    return weights @ v, weights


def test_attention_that_cannot_be_fused_is_refused_with_its_line() -> None:
    compiled = attir.compile(returns_weights)
    for expected, actual in zip(returns_weights(Q, K, V), compiled(Q, K, V), strict=True):
        assert torch.equal(expected, actual)
    (site,) = attir.explain(compiled).sites
    line = returns_weights.__code__.co_firstlineno + 1
    assert (site.status, site.op, site.location) == ("refused", "aten.softmax.int", f"{__file__}:{line}")
    with pytest.raises(attir.CompileError, match="was not fused: the attention weights are returned and used by"):
        attir.compile(returns_weights, strict=True)(Q, K, V)


def router(x: torch.Tensor) -> torch.Tensor:
    return torch.softmax(x @ x.transpose(-1, -2), dim=-1).topk(2)[0].sum(-1)


def test_a_softmax_that_is_no_attention_is_no_refusal() -> None:
    compiled = attir.compile(router, strict=True)
    assert torch.equal(compiled(Q), router(Q))
    assert attir.explain(compiled).sites == []


def test_a_site_without_a_kernel_runs_as_it_was() -> None:
    backend = Backend(Options(), lambda module, options, call=None: refuse())
    compiled: Any = torch.compile(alibi_window, backend=backend)
    assert torch.equal(compiled(Q, K, V, SLOPES), alibi_window(Q, K, V, SLOPES))
    (site,) = backend.report.sites
    assert (site.status, site.op, site.reason) == ("refused", "aten.softmax.int", "no kernel for this")


def refuse() -> Any:
    from attir.ir.diagnostics import error

    raise error("no kernel for this")


def test_triton_on_cpu_tensors_is_refused() -> None:
    compiled = attir.compile(by_hand, backend="triton")
    assert torch.equal(compiled(Q, K, V), by_hand(Q, K, V))
    (site,) = attir.explain(compiled).sites
    assert "needs tensors on a GPU" in site.reason


def test_autocast_is_refused() -> None:
    compiled = attir.compile(by_hand)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(compiled(Q, K, V), by_hand(Q, K, V))
    (site,) = attir.explain(compiled).sites
    assert "autocast is not supported" in site.reason


def test_equal_sites_share_a_kernel() -> None:
    compiled_sites: list[int] = []

    def counting(module: Any, options: Options, call: Sizes | int | None = None) -> Any:
        compiled_sites.append(1)
        return reference_site(module, options, call)

    def two_layers(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return by_hand(by_hand(q, k, v), k, v)

    backend = Backend(Options(), counting)
    compiled: Any = torch.compile(two_layers, backend=backend)
    compiled(Q, K, V)
    assert len(compiled_sites) == 1
    assert [s.status for s in backend.report.sites] == ["fused", "fused"]


def test_dumps_show_every_step(tmp_path: Path) -> None:
    attir.compile(alibi_window, dump=tmp_path)(Q, K, V, SLOPES)
    names = sorted(p.name.partition("-")[2] or p.name for p in (tmp_path / "graph-0").iterdir())
    assert {"aten.mlir", "raise-attention.mlir", "attention_0_0.outline.mlir", "graph.py", "report.json"} <= set(names)
    (raised,) = (tmp_path / "graph-0").glob("*-raise-attention.mlir")
    assert '"attn.attention"' in raised.read_text() and 'loc("' in raised.read_text()


def test_the_name_works_without_importing_attir() -> None:
    program = "import torch; print(torch.compile(lambda x: x + 1, backend='attir')(torch.ones(2)).tolist())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "[2.0, 2.0]\n"), done.stderr


def test_options_by_name_are_checked() -> None:
    compiled: Any = torch.compile(by_hand, backend="attir", options={"stric": True})
    with pytest.raises(attir.CompileError, match="unknown option 'stric'; expected backend, rest"):
        compiled(Q, K, V)


def test_importing_attir_is_light() -> None:
    program = "import attir, sys; print(attir.__version__, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == f"{attir.__version__} False\n"
