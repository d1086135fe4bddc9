"""The way from tensors to the driver's C function, with a driver that only writes down what it is asked for.

Kernels are really compiled, for sm_90; their numbers are checked in Triton's interpreter and on GPUs.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
import torch

from attir.codegen.triton import TritonKernel
from attir.compiler.attention_cases import Case, Shape
from attir.compiler.kernels import Wishes, build_kernel
from attir.compiler.layouts import Layout, heaviest_first
from attir.compiler.triton_calls import Steps
from attir.compiler.triton_kernels import Choice, TritonKernels
from attir.compiler.triton_launch import GpuKernel, StandIn
from attir.compiler.triton_runtime import TritonRunner
from attir.compiler.triton_workspace import workspace
from attir.ir.attributes import FloatType, f16
from attir.ir.diagnostics import CompileError
from benchmarks.fake_driver import FUNCTION, STREAM, FakeDriver, FakeGpu, FakeMachine, Launched, TensorMap, fake_driver
from benchmarks.mask_families import MaskCase

POINTERS = (("descriptors", ""),)


@pytest.fixture
def driver() -> Generator[FakeDriver]:
    with fake_driver() as driver:
        yield driver


def runner_of(case: Case, wishes: Wishes = ()) -> tuple[TritonRunner, FakeMachine]:
    machine = FakeMachine()
    return TritonRunner(TritonKernels(case.module(), "sm_90", wishes), FakeGpu(machine)), machine


def named(kernel: TritonKernel, launched: Launched) -> dict[str, Any]:
    """The arguments of a launch by the kernel's parameters; strides of last axes are constant, and not among them."""
    names = [p.name for p in kernel.parameters if p.axis != kernel.tensors[p.argument].rank - 1 or p.kind == "size"]
    return dict(zip(names, launched.arguments, strict=True))


def test_a_kernel_gets_addresses_strides_and_sizes(driver: FakeDriver) -> None:
    case = Case(f16, 16, form="alibi", lse=True)
    runner, _ = runner_of(case)
    q, k, v, (slopes,) = case.tensors(Shape(1, 2, 2, 300, 129))
    q = q.transpose(1, 2).contiguous().transpose(1, 2)
    runner.kernels.made[Choice()] = Steps.of(build_kernel(case.module(), "sm_90", 0, POINTERS))
    out, lse = runner(q, k, v, [slopes], True)
    (launched,) = driver.launches
    assert (launched.stream, launched.function) == (STREAM, FUNCTION)
    (steps,) = runner.kernels.made.values()
    assert launched.grid == (2 * -(-300 // steps.schedule.block_m), 1, 1)
    given = named(steps.steps[0].kernel, launched)
    for name, tensor in {"q": q, "k": k, "v": v, "capture0": slopes, "out": out, "lse": lse}.items():
        assert given[f"{name}_ptr"] == tensor.data_ptr()
    assert [given[f"stride_q_{axis}"] for axis in "hm"] == [16, 32]
    assert [given[name] for name in "MN"] == [300, 129]


def test_no_length_makes_a_kernel_be_compiled_anew(driver: FakeDriver) -> None:
    """Results whose strides are lengths, lengths of 1, and tensors of one batch or head that lie anywhere."""
    case = Case(f16, 16, form="causal", lse=True)
    runner, _ = runner_of(case)
    for batch, heads, queries, keys in ((1, 2, 300, 300), (2, 1, 301, 1), (1, 2, 304, 77), (3, 5, 320, 16)):
        q, k, v, captures = case.tensors(Shape(batch, heads, heads, queries, keys))
        runner(q, k[:, :, :keys], v, captures, True)
    assert (driver.loads, len(driver.launches)) == (1, 4)


def test_what_is_aligned_and_what_is_not_are_compiled_apart(driver: FakeDriver) -> None:
    case = Case(f16, 16)
    runner, _ = runner_of(case)
    q, k, v, captures = case.tensors(Shape(1, 2, 2, 300, 64))
    beside = torch.empty(q.numel() + 1, dtype=q.dtype)[1:].view(q.shape)
    for each in (q, beside, q, beside):
        runner(each, k, v, captures, False)
    assert (driver.loads, len(driver.launches)) == (2, 4)


def test_strides_beyond_32_bits_are_passed_as_64(driver: FakeDriver) -> None:
    kernel = build_kernel(Case(f16, 16).module(), "sm_90", 0, POINTERS).triton
    sizes = (2, 3, 64, 16)
    layouts = [Layout.contiguous(sizes) for _ in kernel.tensors]
    layouts[1] = Layout(sizes, (2**34, 2**33, 16, 1))
    tensors = [StandIn(slot, layout, torch.float16) for slot, layout in enumerate(layouts)]
    launch = GpuKernel(kernel, FakeMachine()).prepare(tensors, [True] * 3, -1)
    launch([16 * (slot + 1) for slot in range(len(tensors))], STREAM)
    (launched,) = driver.launches
    assert named(kernel, launched)["stride_k_b"] == 2**34


def test_descriptors_of_the_host_follow_the_address(driver: FakeDriver) -> None:
    case = Case(f16, 64)
    runner, _ = runner_of(case)
    q, k, v, captures = case.tensors(Shape(4, 80, 80, 1, 512))
    runner(q, k, v, captures, False)
    moved = k.clone()
    runner(q, moved, v, captures, False)
    tiles = [x for x in driver.launches[0].arguments if isinstance(x, TensorMap)]
    assert [(t.address, t.shape, t.strides) for t in tiles] == [
        (x.data_ptr(), list(k.shape), list(k.stride())) for x in (k, v)
    ]
    assert [t.address for t in driver.launches[1].arguments if isinstance(t, TensorMap)] == [
        moved.data_ptr(), v.data_ptr(),
    ]  # fmt: skip


def test_values_by_column_are_described_as_they_lie_in_memory(driver: FakeDriver) -> None:
    case = Case(FloatType("f8E4M3FN"), 64)
    runner, _ = runner_of(case)
    q, k, v, captures = case.tensors(Shape(4, 80, 80, 1, 512))
    out, _ = runner(q, k, v, captures, False)
    tiles = [x for x in driver.launches[0].arguments if isinstance(x, TensorMap)]
    lying = v.transpose(2, 3)
    assert [(t.shape, t.strides) for t in tiles] == [
        (list(k.shape), list(k.stride())), (list(lying.shape), list(lying.stride())),
    ]  # fmt: skip
    assert tiles[1].address == v.data_ptr() and out.dtype == torch.float16


def test_tensors_that_descriptors_cannot_stand_for_are_read_through_pointers(driver: FakeDriver) -> None:
    case = Case(f16, 64)
    runner, _ = runner_of(case)
    q, k, v, captures = case.tensors(Shape(4, 80, 80, 1, 512))
    runner(q, k.transpose(2, 3).contiguous().transpose(2, 3), v, captures, False)
    assert driver.maps == []


def test_descriptors_of_the_device_get_memory_and_nobody_else_notices(driver: FakeDriver) -> None:
    from triton.runtime import _allocation

    allocator: Any = _allocation._allocator  # pyright: ignore[reportPrivateUsage]
    case, before = Case(f16, 64, form="causal"), allocator.get()
    runner, machine = runner_of(case)
    q, k, v, captures = case.tensors(Shape(1, 2, 2, 300, 300))
    for capturing in (False, False, True):
        machine.capturing = capturing
        runner(q, k, v, captures, False)
        assert allocator.get() is before
    first, second, captured = (launched.scratch for launched in driver.launches)
    assert first.data_ptr() == second.data_ptr() != captured.data_ptr()


def test_parts_are_merged_in_memory_that_stays(driver: FakeDriver) -> None:
    case = Case(f16, 64, group=4, lse=True)
    runner, machine = runner_of(case)
    q, k, v, captures = case.tensors(Shape(1, 8, 2, 1, 4096))
    for _ in range(2):
        runner(q, k, v, captures, True)
    steps = runner.kernels.made[Choice(16)]
    count = steps.split_count(1, 8, 1, 4096)
    assert count > 1
    main, merge, again, _ = driver.launches
    assert main.grid == (2 * count, 1, 1)
    memory = workspace(-1, STREAM, "parts").take(0, torch.device("cpu"))
    parts = {memory.data_ptr(), memory.data_ptr() + -(-count * 8 * 64 * 4 // 256) * 256}
    for launched in (main, merge, again):
        assert parts <= {a for a in launched.arguments if isinstance(a, int)}
    machine.capturing = True
    runner(q, k, v, captures, True)
    assert not parts & {a for a in driver.launches[-1].arguments if isinstance(a, int)}


def test_programs_are_ordered_between_the_lists_and_the_kernel_that_reads_them(driver: FakeDriver) -> None:
    """All heads of a batch share what the kernel before has written about its tiles of rows."""
    case = MaskCase(f16, 64, form="documents", unit=64)
    runner, _ = runner_of(case, (("lists", 1),))
    q, k, v, captures = case.tensors(Shape(2, 4, 4, 300, 300))
    runner(q, k, v, captures, False)
    steps = runner.kernels.get(Choice(), 300)
    assert [step.role for step in steps.steps] == ["tables", "list", "main"]
    _, listing, main = driver.launches
    tiles = -(-300 // steps.schedule.block_m)
    assert (listing.grid, main.grid) == ((2 * tiles, 1, 1), (2 * 4 * tiles, 1, 1))
    memory = workspace(-1, STREAM, "parts").take(0, torch.device("cpu"))
    places = (named(steps.steps[1].kernel, listing)["work_ptr"], named(steps.steps[2].kernel, main)["order_ptr"])
    work, order = (place - memory.data_ptr() for place in places)
    written = torch.stack([torch.arange(tiles), torch.arange(5, 5 + tiles)])[:, None].to(torch.int32)
    memory[work : work + 4 * 2 * tiles].view(torch.int32).copy_(written.view(-1))
    runner(q, k, v, captures, False)
    found = memory[order : order + 8 * 2 * 4 * tiles].view(torch.int64)
    assert torch.equal(found, heaviest_first(written, (2, 4, tiles)))


def test_a_call_with_programs_enough_does_not_split(driver: FakeDriver) -> None:
    case = Case(f16, 64, group=4)
    runner, _ = runner_of(case)
    q, k, v, captures = case.tensors(Shape(64, 8, 2, 1, 64))
    runner(q, k, v, captures, False)
    (launched,) = driver.launches
    assert launched.grid == (128, 1, 1)
    assert [v.calls for v in runner.kernels.variants] == [
        "decode, 16 rows: 1 query x group 4", "decode, 16 rows: 1 query x group 4, keys not split",
    ]  # fmt: skip


def test_a_hook_of_a_profiler_hears_of_a_launch(driver: FakeDriver) -> None:
    case = Case(f16, 16)
    runner, machine = runner_of(case)
    q, k, v, captures = case.tensors(Shape(1, 2, 2, 300, 64))
    runner(q, k, v, captures, False)
    heard: list[Any] = []

    def listen(metadata: Any) -> None:
        heard.append(metadata.get()["name"])

    machine.hooks.launch_enter_hook.add(listen)
    try:
        with pytest.raises(AssertionError):  # the fake driver wants none
            runner(q, k, v, captures, False)
    finally:
        machine.hooks.launch_enter_hook.remove(listen)
    runner(q, k, v, captures, False)
    assert len(driver.launches) == 2


def test_a_kernel_that_does_not_fit_is_a_message(driver: FakeDriver) -> None:
    driver.shared = 100
    case = Case(f16, 16)
    runner, _ = runner_of(case)
    q, k, v, captures = case.tensors(Shape(1, 2, 2, 300, 64))
    with pytest.raises(CompileError, match="kernel 'attention' cannot be loaded: out of resource"):
        runner(q, k, v, captures, False)
