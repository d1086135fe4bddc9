"""Writes new contents of an input where they are computed, instead of copying the whole input at the end.

Functional graphs compute the new contents of a mutated input as a tensor of its own: a key cache
becomes `index_copy(cache, 2, position, key)`. Knows about ATen's schemas; knows nothing about the IR.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import fx

from .schema import is_aten, named_arguments, schema_arguments, without_defaults

_aten: Any = torch.ops.aten
VIEWS: Mapping[Any, Any] = {
    _aten.slice_scatter.default: _aten.slice.Tensor,
    _aten.select_scatter.default: _aten.select.int,
    _aten.diagonal_scatter.default: _aten.diagonal.default,
}
"""What replaces a part of a tensor, with the view that is this part."""
SIZES = (_aten.sym_size.int, _aten.sym_stride.int, _aten.sym_numel.default, _aten.sym_storage_offset.default)
"""What asks a tensor for other things than its contents."""


def write_in_place(source: fx.Node, value: fx.Node, returned: Collection[fx.Node]) -> bool:
    """index_copy(source, ...)  →  index_copy_(source, ...), where `value` is what `source` is to hold in the end.

    `value` may be several such steps away from `source`, and a step may be on a part of it. False, with
    nothing changed, where `returned`, or a reader of older contents, would see the writing. Afterwards
    `value` may be gone from the graph: `source` is then in its place.
    """
    others = [n for n in source.graph.nodes if n.op in ("placeholder", "get_attr") and n is not source]
    if any(_overlap(source, n) for n in others):
        return False
    for nested in (True, False):
        steps = _steps(source, value, nested)
        if steps is not None and _nobody_sees(source, steps, returned):
            for step in steps:
                step.apply()
            return True
    return False


def _nobody_sees(source: fx.Node, steps: tuple[_Step, ...], returned: Collection[fx.Node]) -> bool:
    memory, flat = _memory(source, steps), _flat(steps)
    chain = {step.node for step in flat}
    same = all(_same_layout(step, chain) for step in flat)
    return same and memory.keys().isdisjoint(returned) and _readers_agree(memory, steps)


@dataclass(frozen=True)
class _Step:
    """A node that computes new contents of `base`; `inner` are the steps that do so for its part, if any."""

    node: fx.Node
    base: fx.Node
    inner: tuple[_Step, ...] = field(default=())

    @property
    def writes(self) -> tuple[fx.Node, ...]:
        """The nodes that will write to memory, in order."""
        return tuple(n for step in self.inner for n in step.writes) if self.inner else (self.node,)

    @property
    def nodes(self) -> tuple[fx.Node, ...]:
        return (*(n for step in self.inner for n in step.nodes), self.node)

    def apply(self) -> None:
        for step in self.inner:
            step.apply()
        if (twin := _twin(self.node.target)) is not None:
            self.node.target = twin
            return
        base = cast(fx.Node, self.node.args[0])  # The steps before may have replaced `self.base`.
        if not self.inner:
            _write_part(self.node, base)
        self.node.replace_all_uses_with(base)
        self.node.graph.erase_node(self.node)


def _write_part(node: fx.Node, base: fx.Node) -> None:
    """slice_scatter(base, part, ...)  →  copy_(slice(base, ...), part)"""
    arguments = _place_of(node)
    part = cast(fx.Node, named_arguments(node)["src"])
    with node.graph.inserting_before(node):
        view = node.graph.call_function(VIEWS[node.target], (base,), arguments)
        written = node.graph.call_function(_aten.copy_.default, (view, part))
    view.meta = {**node.meta, "val": part.meta["val"]}
    written.meta = dict(view.meta)


def _steps(base: fx.Node, value: fx.Node, nested: bool) -> tuple[_Step, ...] | None:
    """The steps from `base` to `value`, first to last; None where there is another operation in between."""
    steps: list[_Step] = []
    while value is not base:
        step = _step(value, nested)
        if step is None:
            return None
        steps.insert(0, step)
        value = step.base
    return tuple(steps)


def _step(node: fx.Node, nested: bool) -> _Step | None:
    if node.op != "call_function" or not node.args or not isinstance(node.args[0], fx.Node):
        return None
    base = node.args[0]
    if node.target in VIEWS:
        return _Step(node, base, _steps_of_part(node, base) if nested else ())
    return _Step(node, base) if _twin(node.target) is not None else None


def _steps_of_part(node: fx.Node, base: fx.Node) -> tuple[_Step, ...]:
    """Of slice_scatter(base, index_copy(slice(base, ...), ...), ...) the `index_copy`, if the slices are equal."""
    steps: list[_Step] = []
    part = named_arguments(node)["src"]
    while isinstance(part, fx.Node) and not _is_part(part, node, base):
        step = _step(part, nested=True)
        if step is None:
            return ()
        steps.insert(0, step)
        part = step.base
    return tuple(steps) if isinstance(part, fx.Node) else ()


def _is_part(view: fx.Node, node: fx.Node, base: fx.Node) -> bool:
    return view.target is VIEWS[node.target] and view.args[0] is base and _place_of(view) == _place_of(node)


def _place_of(node: fx.Node) -> dict[str, Any]:
    """Which part of its first argument a view is, or a scatter replaces."""
    arguments = without_defaults(node.target, named_arguments(node))
    return {name: value for name, value in arguments.items() if name not in ("self", "src", "input")}


def _twin(target: Any) -> Any:
    """The overload `x_.y` of an ATen overload `x.y` that writes its result over its first argument."""
    if not is_aten(target) or _returns_views(target):
        return None
    packet = getattr(_aten, f"{target._schema.name.removeprefix('aten::')}_", None)
    twin = getattr(packet, target._overloadname, None)
    if twin is None or torch.Tag.inplace_view in twin.tags:
        return None
    before, after = schema_arguments(target), schema_arguments(twin)
    same = [_declared(a) for a in before] == [_declared(a) for a in after]
    written = [cast(Any, a).alias_info is not None for a in after]
    return twin if same and written and written[0] and not any(written[1:]) else None


def _declared(argument: torch.Argument) -> tuple[object, ...]:
    return argument.name, str(argument.type), cast(Any, argument).kwarg_only


def _returns_views(target: Any) -> bool:
    return any(r.alias_info is not None for r in target._schema.returns)


def _memory(source: fx.Node, steps: tuple[_Step, ...]) -> dict[fx.Node, int]:
    """The nodes whose contents will lie in `source`, with the number of writes that come before these contents."""
    done = 0
    memory: dict[fx.Node, int] = {}
    produced = {n for step in steps for n in step.nodes}
    _add_views(memory, source, 0, produced)
    for step in steps:
        done = _add_step(memory, step, done, produced)
    return memory


def _add_step(memory: dict[fx.Node, int], step: _Step, done: int, produced: set[fx.Node]) -> int:
    for inner in step.inner:
        done = _add_step(memory, inner, done, produced)
    done = done if step.inner else done + 1
    _add_views(memory, step.node, done, produced)
    return done


def _add_views(memory: dict[fx.Node, int], node: fx.Node, done: int, produced: set[fx.Node]) -> None:
    pending = [node]
    while pending:
        viewed = pending.pop()
        memory[viewed] = done
        pending += [u for u in viewed.users if u not in memory and u not in produced and _may_be_view(u, viewed)]


def _may_be_view(user: fx.Node, node: fx.Node) -> bool:
    if user.op != "call_function" or user.target in SIZES:
        return False
    declared = schema_arguments(user.target)
    if not declared:
        return isinstance(user.meta.get("val"), torch.Tensor | list | tuple)
    seen: list[fx.Node] = []
    viewed = {a.name for a in declared if cast(Any, a).alias_info is not None}
    fx.map_arg([value for name, value in named_arguments(user).items() if name in viewed], seen.append)
    return (_returns_views(user.target) and node in seen) or _overlap(user, node)


def _readers_agree(memory: Mapping[fx.Node, int], steps: tuple[_Step, ...]) -> bool:
    """Whether every reader of `memory` finds as many writes done as its contents are to have."""
    writes = [n for step in steps for n in step.writes]
    bases = {step.node: step.base for step in _flat(steps)}
    for node, done in memory.items():
        for user in node.users:
            # A part that was written where it lies needs no putting back.
            put_back = user in bases and user not in writes
            if user.op == "output" or user.target in SIZES or put_back:
                continue
            # An operation that also reads what it writes need not work in place.
            if user in bases and (node is not bases[user] or _times_used(user, node) > 1):
                return False
            if sum(write < user for write in writes) != done:
                return False
    return True


def _times_used(user: fx.Node, node: fx.Node) -> int:
    seen: list[fx.Node] = []
    fx.map_arg((user.args, user.kwargs), seen.append)
    return seen.count(node)


def _flat(steps: tuple[_Step, ...]) -> list[_Step]:
    return [s for step in steps for s in (*_flat(step.inner), step)]


def _same_layout(step: _Step, chain: Collection[fx.Node]) -> bool:
    """Whether the new contents lie as the old ones do; strides matter only to readers outside of `chain`."""
    new, old = step.node.meta.get("val"), step.base.meta.get("val")
    if not isinstance(new, torch.Tensor) or not isinstance(old, torch.Tensor) or old.layout != torch.strided:
        return False
    read = any(u.op != "output" and u not in chain for u in step.node.users)
    return _kind(new) == _kind(old) and (not read or [*map(str, new.stride())] == [*map(str, old.stride())])


def _kind(value: torch.Tensor) -> tuple[object, ...]:
    return [*map(str, value.shape)], value.dtype, value.device, value.layout


def _overlap(node: fx.Node, other: fx.Node) -> bool:
    """Whether two nodes hold tensors of one storage, as far as their example values tell."""
    return not _storages(node.meta.get("val")).isdisjoint(_storages(other.meta.get("val")))


def _storages(value: object) -> set[object]:
    if isinstance(value, list | tuple):
        return {s for item in cast("Sequence[object]", value) for s in _storages(item)}
    if not isinstance(value, torch.Tensor) or value.layout != torch.strided:
        return set()
    return {cast(Any, value).untyped_storage()._cdata}
