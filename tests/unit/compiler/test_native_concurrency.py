"""Native kernels give the same bits on any number of threads, in calls at once, in forks, and inside each other."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  PyTorch's own abbreviation
from numeric.closeness import NATIVE, runner_for

import attir
from attir.compiler.attention_cases import Captures, Case, Shape
from attir.compiler.kernels import compile_site
from attir.compiler.options import Options
from attir.compiler.sites import CompiledSite, Runner
from attir.ir.attributes import FloatType, bf16, f16, f32

pytestmark = NATIVE

Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor, Captures]
Results = tuple[torch.Tensor, torch.Tensor]
CALLERS = 6
PATIENCE = 60
"""Seconds after which a thread or a process is taken to wait forever."""

PREFILL, RAGGED, DECODE, FEW = (
    Shape(1, 4, 2, 150, 150),
    Shape(2, 6, 3, 67, 131),
    Shape(1, 4, 2, 1, 4000),
    Shape(2, 4, 2, 9, 1300),
)
SHAPES = (PREFILL, RAGGED, DECODE, FEW)


@pytest.fixture(autouse=True)
def restored_threads() -> Iterator[None]:
    """Other tests run on as many threads as before."""
    before = torch.get_num_threads()
    cast(Any, torch)._dynamo.reset()
    yield
    torch.set_num_threads(before)


def fresh(case: Case, queries: int | None = None) -> CompiledSite:
    """A site that shares its kernels with no other."""
    return compile_site(case.module(), Options(backend="native", cache=False), queries)


def call(run: Runner, inputs: Inputs) -> Results:
    q, k, v, captures = inputs
    return run(q, k, v, captures, True)


def same(one: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(one, other, strict=True))


def at_once(work: Callable[[int], object], count: int = CALLERS) -> None:
    """Call `work` with 0, 1, ... in as many threads that start together; what one raises is raised here."""
    barrier = threading.Barrier(count)

    def wait_and_work(number: int) -> None:
        barrier.wait(PATIENCE)
        work(number)

    with ThreadPoolExecutor(count) as pool:
        for future in [pool.submit(wait_and_work, number) for number in range(count)]:
            future.result(PATIENCE)


# --- threads of one call


@pytest.mark.parametrize(("form", "dtype"), [("causal", f32), ("bias", bf16)])
def test_results_do_not_depend_on_the_number_of_threads(form: str, dtype: FloatType) -> None:
    case = Case(dtype, 40, 24, 2, form)
    run = runner_for(case, "native")
    for shape in SHAPES:
        inputs, found = case.tensors(shape), list[Results]()
        for threads in (1, 2, 3, 4, 2):
            torch.set_num_threads(threads)
            found.append(call(run, inputs))
        assert all(same(found[0], other) for other in found[1:]), shape


# --- several calls at once


@pytest.mark.parametrize("threads", [1, 3])
def test_calls_at_once_do_not_disturb_each_other(threads: int) -> None:
    """Each caller has inputs and sizes of its own; prefill and decoding run beside each other."""
    torch.set_num_threads(threads)
    case = Case(f32, 40, 24, 2, "alibi")
    run = runner_for(case, "native")
    inputs = [case.tensors(SHAPES[n % len(SHAPES)], seed=n) for n in range(CALLERS)]
    expected = [call(run, x) for x in inputs]
    wrong: list[int] = []

    def work(number: int) -> None:
        torch.set_num_threads(threads)
        wrong.extend(number for _ in range(15) if not same(call(run, inputs[number]), expected[number]))

    at_once(work)
    assert wrong == []


def test_first_calls_at_once_compile_once() -> None:
    case = Case(f16, 24, group=2, form="softcap")
    site = fresh(case)
    inputs, found = case.tensors(DECODE), dict[int, Results]()

    def work(number: int) -> None:
        found[number] = call(site.runner, inputs)

    at_once(work)
    assert [v.calls for v in site.variants] == [
        "prefill, any rows: before any call",
        "decode, 2 rows: 1 query x group 2",
    ]
    assert all(same(found[0], other) for other in found.values())


def test_different_kernels_may_be_compiled_at_once() -> None:
    cases = [Case(f32, 8 + number, form="causal") for number in range(4)]
    found = dict[int, Results]()

    def work(number: int) -> None:
        site = fresh(cases[number], 50)
        found[number] = call(site.runner, cases[number].tensors(Shape(queries=50, keys=50)))

    at_once(work, len(cases))
    for number, case in enumerate(cases):
        assert same(found[number], call(runner_for(case, "native"), case.tensors(Shape(queries=50, keys=50))))


def test_a_compiled_function_in_a_pool_of_threads() -> None:
    """Dynamo captures while other threads wait for the same function."""

    def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    compiled = attir.compile(attention, strict=True, dynamic=True)
    inputs = [tuple(torch.randn(1, 2, 20 + n % 5, 16) for _ in range(3)) for n in range(4 * CALLERS)]
    with ThreadPoolExecutor(CALLERS) as pool:
        futures = [pool.submit(compiled, *x) for x in inputs]
        for x, future in zip(inputs, futures, strict=True):
            torch.testing.assert_close(future.result(PATIENCE), attention(*x))
    assert all(site.status == "fused" for site in attir.explain(compiled).sites)


# --- calls inside calls


def test_a_watcher_may_call_the_site_that_compiles() -> None:
    """It hears of a kernel for decoding, and calls for another."""
    case = Case(f32, 24, group=2)
    site, seen = fresh(case, 70), list[str]()
    prefill = case.tensors(PREFILL)

    def watcher(name: str, *_: object) -> None:
        seen.append(name)
        call(site.runner, prefill)
        call(site.runner, case.tensors(replace(DECODE, queries=4)))

    site.watch(watcher)
    first = call(site.runner, case.tensors(DECODE))
    assert seen == ["rows-2", "rows-8"]
    assert same(first, call(runner_for(case, "native"), case.tensors(DECODE)))


def test_a_hook_of_a_compiled_model_may_call_another_compiled_function() -> None:
    def attention(q: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(q, q, q)

    class Model(torch.nn.Module):
        def forward(self, q: torch.Tensor) -> torch.Tensor:
            return F.scaled_dot_product_attention(q, q, q, is_causal=True)

    inner, model, found = (
        attir.compile(attention, strict=True),
        attir.compile(Model(), strict=True),
        list[torch.Tensor](),
    )

    def hook(_: object, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        found.append(inner(output))

    model.register_forward_hook(hook)
    q = torch.randn(1, 2, 30, 16)
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(model(q), Model()(q))
    torch.testing.assert_close(found[-1], attention(Model()(q)))


# --- forks


def in_fork(work: Callable[[], bool]) -> bool:
    """What `work` says in a fork of this process; False where it does not end."""
    receiving, sending = multiprocessing.Pipe(duplex=False)

    def child() -> None:
        sending.send(work())

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(PATIENCE)
    if process.is_alive():
        process.kill()
        process.join()
        return False
    return process.exitcode == 0 and receiving.poll() and receiving.recv()


@pytest.mark.parametrize("threads", [1, 3])
def test_a_fork_calls_what_its_parent_compiled(threads: int) -> None:
    """Whether or not its parent has threads that the fork does not have; twice, and in a fork of the fork."""
    torch.set_num_threads(threads)
    case = Case(f32, 40, 24, 2, "causal")
    run, inputs = runner_for(case, "native"), [case.tensors(shape) for shape in SHAPES]
    expected = [call(run, x) for x in inputs]

    def work() -> bool:
        return all(same(call(run, x), y) for _ in range(2) for x, y in zip(inputs, expected, strict=True))

    assert in_fork(work)
    assert in_fork(lambda: work() and in_fork(work))
    assert work()


def test_a_fork_compiles() -> None:
    """While nothing else happens, and while another thread of its parent compiles."""
    case, slow = Case(f32, 24, form="window"), Case(f16, 72, group=2, form="window")
    inputs = case.tensors(Shape(queries=60, keys=80))
    expected = call(fresh(case, 60).runner, inputs)

    def work() -> bool:
        return same(call(fresh(case, 60).runner, inputs), expected)

    assert in_fork(work)
    with ThreadPoolExecutor(1) as pool:
        compiled = pool.submit(lambda: call(fresh(slow, 150).runner, slow.tensors(PREFILL)))
        assert in_fork(work)
        assert same(compiled.result(PATIENCE), call(runner_for(slow, "native"), slow.tensors(PREFILL)))
