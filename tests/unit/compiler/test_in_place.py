"""New contents of inputs are written where they are computed, unless somebody would see a difference."""

# torch's own annotations are partial.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportPrivateUsage=false

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import fx

from attir.compiler.capture import capture, placeholder_examples, restore_mutations
from attir.compiler.fx_export import export_graph
from attir.compiler.fx_import import import_graph
from attir.compiler.in_place import write_in_place
from attir.ir.core import Operation

Tensor = torch.Tensor
ROWS = torch.tensor([1, 3])


def no_site(op: Operation) -> int:
    raise AssertionError(f"nothing was raised, but {op.name} is fused")


class RoundTrip:
    """A backend that goes through the IR and back, and keeps the graphs."""

    def __init__(self) -> None:
        self.graphs: list[fx.Graph] = []

    def __call__(self, gm: fx.GraphModule, _: Sequence[Any]) -> Callable[..., Any]:
        captured = capture(gm, placeholder_examples(gm))
        imported = import_graph(captured.graph_module)
        exported = export_graph(imported.module, imported, no_site, captured.graph_module)
        restore_mutations(exported, captured.signature)
        exported.graph.lint()
        self.graphs.append(exported.graph)
        return exported


def tensors() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, 4, generator=generator), torch.randn(4, 4, generator=generator)


def ops_of(function: Callable[..., Any], *inputs: Tensor, dynamic: bool | None = None, exact: bool = True) -> list[str]:
    """The ops that the graph of `function` runs, after seeing that it does twice what eager does."""
    torch._dynamo.reset()
    backend, bound = RoundTrip(), 0.0 if exact else None
    compiled = torch.compile(function, backend=backend, dynamic=dynamic, fullgraph=True)
    # Views of one tensor stay views of one tensor: a deep copy of all keeps them so.
    ours, theirs = copied(inputs), copied(inputs)
    places = [t.data_ptr() for t in ours]
    with torch.no_grad():
        for _ in range(2):
            actual, expected = compiled(*ours), function(*theirs)
            torch.testing.assert_close([actual, ours], [expected, theirs], rtol=bound, atol=bound)
    assert places == [t.data_ptr() for t in ours]
    assert len(backend.graphs) == 1
    return [str(n.target).removeprefix("aten.") for n in backend.graphs[0].nodes if n.op == "call_function"]


def copied(inputs: Sequence[Tensor]) -> list[Tensor]:
    return copy.deepcopy(list(inputs))


def writes(ops: Sequence[str]) -> list[str]:
    return [op.partition(".")[0] for op in ops if op.partition(".")[0].endswith("_")]


def index_copy(x: Tensor, y: Tensor) -> Tensor:
    x.index_copy_(0, ROWS, y[:2])
    return x @ y


def index_put(x: Tensor, y: Tensor) -> Tensor:
    x[:, ROWS] = y[:, :2]
    return x @ y


def scatter_add(x: Tensor, y: Tensor) -> Tensor:
    x.scatter_add_(0, torch.zeros(4, 4, dtype=torch.int64), y)
    return x.t() @ y


def masked_fill(x: Tensor, y: Tensor) -> Tensor:
    x.masked_fill_(y > 0, 2.0)
    return x + y


def add(x: Tensor, y: Tensor) -> Tensor:
    x.add_(y, alpha=2)
    return x + y


def overwrite(x: Tensor, y: Tensor) -> Tensor:
    x.copy_(y)
    return x + y


def several(x: Tensor, y: Tensor) -> Tensor:
    x.index_copy_(0, ROWS, y[:2])
    z = x.sum()
    x.mul_(2).add_(y)
    return x + z


def not_read(x: Tensor, y: Tensor) -> Tensor:
    x.add_(y)
    return y + 1


def reads_before(x: Tensor, y: Tensor) -> Tensor:
    z = x.t() @ y
    x.add_(1)
    return z + x


def both(x: Tensor, y: Tensor) -> Tensor:
    y.add_(x)
    x.copy_(y)
    return x * y


@pytest.mark.parametrize("dynamic", [None, True])
@pytest.mark.parametrize(
    "function, expected",
    [
        (index_copy, ["index_copy_"]),
        (index_put, ["index_put_"]),
        (scatter_add, ["scatter_add_"]),
        (masked_fill, ["masked_fill_"]),
        (add, ["add_"]),
        (overwrite, ["copy_"]),
        (several, ["index_copy_", "mul_", "add_"]),
        (not_read, ["add_"]),
        (reads_before, ["add_"]),
        (both, ["add_", "copy_"]),
    ],
)
def test_contents_are_written_where_they_are_computed(
    function: Callable[..., Any], expected: list[str], dynamic: bool | None
) -> None:
    assert writes(ops_of(function, *tensors(), dynamic=dynamic)) == expected


def slice_copy(x: Tensor, y: Tensor) -> Tensor:
    x[1:3].copy_(y[:2])
    return x @ y


def select_add(x: Tensor, y: Tensor) -> Tensor:
    x[:, 0] += 1
    x[2] = 5
    return x @ y


def nested_parts(x: Tensor, y: Tensor) -> Tensor:
    x[1:3][:, 2].mul_(2)
    x[0].add_(y[1])
    return x @ y


def part_read_in_between(x: Tensor, y: Tensor) -> Tensor:
    part = x[1:3]
    part.add_(1)
    z = part.sum()
    part.add_(y[:2])
    return z + x


@pytest.mark.parametrize("function", [slice_copy, select_add, nested_parts, part_read_in_between])
def test_a_part_is_written_through_a_view(function: Callable[..., Any]) -> None:
    ops = ops_of(function, *tensors())
    # The copies that are left are of parts: no op computes the whole anew.
    assert not any("scatter" in op for op in ops), ops
    assert writes(ops)


def old_read_later(x: Tensor, y: Tensor) -> Tensor:
    z = x + 1
    w = x.clone()
    x.copy_(z)
    return w @ x


def old_view_cloned_late(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    new = x + y
    late = x[1] * 2
    x.copy_(new)
    return late, new


def new_returned_apart(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    new = torch.index_copy(x, 0, ROWS, y[:2])
    x.copy_(new)
    return new, x.sum()


def swapped(x: Tensor, y: Tensor) -> Tensor:
    old = x.clone()
    x.copy_(y)
    y.copy_(old)
    return x - y


def own_transpose(x: Tensor, y: Tensor) -> Tensor:
    x.copy_(x + x.t())
    return x


def squared(x: Tensor, y: Tensor) -> Tensor:
    x.mul_(x)
    return x + y


def returned_itself(x: Tensor, y: Tensor) -> Tensor:
    x.index_copy_(0, ROWS, y[:2])
    return x


def through_a_transpose(x: Tensor, y: Tensor) -> Tensor:
    x.t()[1] = 3
    x.view(-1).add_(y.view(-1))
    return x.t() @ y


def other_dtype(x: Tensor, y: Tensor) -> Tensor:
    x.add_(y.double())
    return x


def unbound(x: Tensor, y: Tensor) -> Tensor:
    a, b, *_ = x.unbind()
    a.add_(b)
    b.mul_(y[0])
    return a + x[1]


@pytest.mark.parametrize(
    "function",
    [
        old_read_later, old_view_cloned_late, new_returned_apart, swapped, own_transpose, squared, returned_itself,
        through_a_transpose, other_dtype, unbound,
    ],
)  # fmt: skip
def test_nobody_sees_a_difference(function: Callable[..., Any]) -> None:
    assert writes(ops_of(function, *tensors()))


@pytest.mark.parametrize("function", [index_copy, slice_copy, select_add, several, returned_itself])
def test_inputs_with_gaps(function: Callable[..., Any]) -> None:
    x, y = tensors()
    # Sums depend on the order of memory, which a functional op may change.
    ops_of(function, torch.zeros(4, 9)[:, ::2][:, :4], y, exact=False)
    ops_of(function, x.t(), y, exact=False)
    ops_of(function, x.half(), y.half())


def graph_of(*names: str) -> tuple[fx.Graph, list[fx.Node]]:
    """A graph with inputs that hold 4x4 tensors."""
    graph = fx.Graph()
    nodes = [graph.placeholder(name) for name in names]
    for node in nodes:
        node.meta["val"] = torch.zeros(4, 4)
    return graph, nodes


def call(graph: fx.Graph, target: Any, *args: Any) -> fx.Node:
    node = graph.call_function(target, args)
    node.meta["val"] = target(*fx.map_arg(args, lambda n: n.meta["val"]))
    return node


def written_in_place(graph: fx.Graph, x: fx.Node, new: fx.Node, *returned: fx.Node) -> bool:
    graph.output((new, *returned))
    before = str(graph)
    done = write_in_place(x, new, returned)
    assert done is (str(graph) != before)
    graph.lint()
    return done


aten: Any = torch.ops.aten


def test_a_late_reader_keeps_the_old_contents() -> None:
    graph, (x, y) = graph_of("x", "y")
    row = call(graph, aten.select.int, x, 0, 1)
    new = call(graph, aten.add.Tensor, x, y)
    late = call(graph, aten.neg.default, row)
    assert not written_in_place(graph, x, new, late)


def test_a_reader_of_contents_in_between_keeps_them() -> None:
    graph, (x, y) = graph_of("x", "y")
    between = call(graph, aten.add.Tensor, x, y)
    new = call(graph, aten.mul.Tensor, between, y)
    late = call(graph, aten.neg.default, between)
    assert not written_in_place(graph, x, new, late)


def test_returned_contents_stay_apart() -> None:
    for view in (False, True):
        graph, (x, y) = graph_of("x", "y")
        new = call(graph, aten.add.Tensor, x, y)
        assert not written_in_place(graph, x, new, call(graph, aten.view.default, new, [16]) if view else new)


def test_an_input_that_shares_memory_is_left_alone() -> None:
    graph, (x, y) = graph_of("x", "y")
    y.meta["val"] = x.meta["val"].t()
    assert not written_in_place(graph, x, call(graph, aten.add.Tensor, x, 1))


def test_an_unannotated_view_is_known_by_its_memory() -> None:
    graph, (x,) = graph_of("x")
    same = call(graph, aten.dropout.default, x, 0.5, False)
    new = call(graph, aten.add.Tensor, x, 1)
    assert not written_in_place(graph, x, new, call(graph, aten.neg.default, same))


def test_another_dtype_or_shape_is_copied() -> None:
    graph, (x, y) = graph_of("x", "y")
    y.meta["val"] = torch.zeros(4, 4, dtype=torch.float64)
    assert not written_in_place(graph, x, call(graph, aten.add.Tensor, x, y))
    graph, (x, y) = graph_of("x", "y")
    y.meta["val"] = torch.zeros(3, 4, 4)
    assert not written_in_place(graph, x, call(graph, aten.add.Tensor, x, y))


def test_an_op_that_also_reads_what_it_would_write_is_left_alone() -> None:
    graph, (x,) = graph_of("x")
    assert not written_in_place(graph, x, call(graph, aten.mul.Tensor, x, x))
    graph, (x,) = graph_of("x")
    assert not written_in_place(graph, x, call(graph, aten.add.Tensor, x, call(graph, aten.t.default, x)))


@pytest.mark.parametrize("read", [False, True])
def test_readers_find_the_strides_that_they_were_captured_with(read: bool) -> None:
    graph, (x,) = graph_of("x")
    x.meta["val"] = torch.zeros(4, 8)[:, ::2]
    new = call(graph, aten.add.Tensor, x, 1)
    assert new.meta["val"].stride() != x.meta["val"].stride()
    later = [call(graph, aten.neg.default, new)] if read else []
    assert written_in_place(graph, x, new, *later) is not read


def test_views_and_ops_without_a_twin_are_not_writes() -> None:
    for target, args in ((aten.t.default, ()), (aten.roll.default, ([1],)), (aten.squeeze.default, ())):
        graph, (x,) = graph_of("x")
        assert not written_in_place(graph, x, call(graph, target, x, *args))


def reads_the_other(x: Tensor, y: Tensor) -> Tensor:
    x.add_(1)
    return x @ y


def test_inputs_that_overlap() -> None:
    x, _ = tensors()
    assert writes(ops_of(reads_the_other, x, x)) == ["add_"]
    with pytest.raises(Exception, match="cannot be exported"):
        ops_of(reads_the_other, x, x.t())


STEPS: Sequence[Callable[[Tensor, Tensor], Any]] = (
    lambda x, y: x.add_(y),
    lambda x, y: x[1:3].mul_(y[0]),
    lambda x, y: x[:, 1].copy_(y[2]),
    lambda x, y: x.index_copy_(0, ROWS, y[1:3]),
    lambda x, y: x.copy_(y * 2),
    lambda x, y: x.masked_fill_(y < 0, 0.5),
    lambda x, y: x.t()[2].add_(1),
    lambda x, y: x[1:].diagonal().add_(y[0, :3]),
)


READS: Sequence[Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = (
    lambda x, y, view, last: x + y,
    lambda x, y, view, last: x.clone(),
    lambda x, y, view, last: last + 1,
    lambda x, y, view, last: x.reshape(16) - 1,
    lambda x, y, view, last: view * 2,
    lambda x, y, view, last: view.t().contiguous() + y[1, 1],
)


@pytest.mark.parametrize("seed", range(20))
def test_any_order_of_writes_and_reads(seed: int) -> None:
    chance = random.Random(seed)
    plan = [(chance.choice(STEPS), chance.choice(READS), chance.randrange(8), chance.randrange(3)) for _ in range(6)]

    def program(x: Tensor, y: Tensor) -> list[Tensor]:
        kept, view = [x * y], y.t()
        for write, read, kind, start in plan:
            a, b = (x, y) if kind % 2 else (y, x)
            if kind < 4:
                write(a, b)
            elif kind == 4:
                view = a[start:]
            else:
                kept.append(read(a, b, view, kept[-1]))
        return kept

    ops_of(program, *tensors())
