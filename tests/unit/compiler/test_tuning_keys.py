"""Programs that mean the same have one key, and others have another; devices and tools have names."""

from __future__ import annotations

import random
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.compiler.attention_ops import arguments, attention

from attir.compiler import host_cpu, tuning_keys
from attir.compiler.attention_cases import FORMS, Case
from attir.compiler.canonical_key import canonical_key
from attir.compiler.sites import outline
from attir.compiler.tuning_keys import Key, device_fingerprint, toolchain
from attir.compiler.version import VERSION
from attir.cost_model.devices import DEVICES, TARGETS
from attir.ir.attributes import FloatAttr, StringAttr, Symbol, TensorType, Type, bf16, f16, f32, i1
from attir.ir.builder import Builder
from attir.ir.core import Block, Operation, Region, Value
from attir.ir.define import Op
from attir.ir.dialects import arith
from attir.ir.dialects.attn import AttentionOp, YieldOp, region_block
from attir.ir.dialects.builtin import ModuleOp
from attir.ir.dialects.func import FuncOp
from attir.ir.dialects.tensor import ExtractOp
from attir.ir.parser import parse_module
from attir.ir.printer import print_operation

FORM = st.sampled_from(sorted(FORMS))
SEED = st.integers(0, 2**32)
KINDS: tuple[type[Op], ...] = (arith.AddFOp, arith.MulFOp, arith.SubFOp)
H, N = Symbol("h"), Symbol("n")
CAPTURES = (TensorType((H,), f32), TensorType((N,), f32), TensorType((1, H), f16), TensorType((H,), f32))


def attention_of(module: Operation) -> AttentionOp:
    return next(AttentionOp(op) for op in module.walk() if AttentionOp.match(op))


def scored(seed: int, captures: list[int], sizes: tuple[int, int, int] = (8, 128, 256)) -> Operation:
    """An attention with a random score that reads `CAPTURES`, which come in the order of `captures`."""
    heads, queries, keys = sizes
    q, k = TensorType((2, heads, queries, 64), f16), TensorType((2, heads, keys, 64), f16)
    operands = arguments(q, k, k, *(CAPTURES[i].with_shape(*_sized(CAPTURES[i], heads, keys)) for i in captures))
    block = region_block("score", operands[3:])
    s, _, h, _, n, *inside = block.arguments
    chosen, build = random.Random(seed), Builder(block)
    values = [s]
    for number, type_ in enumerate(CAPTURES):
        places = {H: h, N: n}
        indices = [places[d] if isinstance(d, Symbol) else build.index(0) for d in type_.shape]
        read = build.create(ExtractOp, [inside[captures.index(number)], *indices], [type_.element]).out
        values.append(read if type_.element == f32 else build.create(arith.ExtFOp, [read], [f32]).out)
    for _ in range(6):
        values.append(build.binary(chosen.choice(KINDS), chosen.choice(values), chosen.choice(values)))
    total = values[0]
    for value in values[1:]:
        total = build.binary(arith.AddFOp, total, value)
    build.create(YieldOp, [total])
    results: list[Type] = [q, TensorType(q.shape[:3], f32)]
    op = AttentionOp.create(operands, results, {"scale": FloatAttr(0.125)}, [Region([block]), Region()])
    return outline(op.operation, "site")


def _sized(type_: TensorType, heads: int, keys: int) -> list[int]:
    return [d if isinstance(d, int) else {H: heads, N: keys}[d] for d in type_.shape if d is not None]


def shuffled(block: Block, seed: int) -> None:
    """Put the operations of a block in another order in which each comes after what it reads."""
    chosen, placed = random.Random(seed), list[Operation]()
    while len(placed) < len(block.ops) - 1:
        ready = [
            op for op in block.ops[:-1]
            if op not in placed and all(v.defining_op is None or v.defining_op in placed for v in op.operands)
        ]  # fmt: skip
        placed.append(chosen.choice(ready))
    block.ops[:-1] = placed


@given(seed=SEED, order=st.permutations(range(len(CAPTURES))), other=SEED)
@settings(max_examples=60, deadline=None)
def test_order_of_operations_and_captures_does_not_matter(seed: int, order: list[int], other: int) -> None:
    key = canonical_key(scored(seed, list(range(len(CAPTURES)))))
    module = scored(seed, order)
    shuffled(attention_of(module).score.block, other)
    assert canonical_key(module) == key


@given(seed=SEED, sizes=st.tuples(*(st.integers(2, 4096) for _ in range(3))))
@settings(max_examples=30, deadline=None)
def test_sizes_do_not_matter(seed: int, sizes: tuple[int, int, int]) -> None:
    order = list(range(len(CAPTURES)))
    assert canonical_key(scored(seed, order, sizes)) == canonical_key(scored(seed, order))


@given(form=FORM, group=st.sampled_from((1, 4)), prefix=st.sampled_from(("a", "value_", "q")))
@settings(max_examples=30, deadline=None)
def test_names_do_not_matter(form: str, group: int, prefix: str) -> None:
    module = Case(form=form, group=group).module("attention")
    renamed = Case(form=form, group=group).module("another")
    for number, op in enumerate(renamed.walk()):
        for value in [*op.results, *(a for r in op.regions for b in r.blocks for a in b.arguments)]:
            value.name_hint = f"{prefix}{number}"
    text = re.sub(r"\b([BHKMN])(?=[,>])", r"size_\1", print_operation(renamed))
    assert text != print_operation(renamed)
    for same in (renamed, parse_module(text)):
        assert canonical_key(same) == canonical_key(module)


def test_the_program_itself_is_left_as_it_is() -> None:
    module = scored(3, [2, 0, 3, 1])
    before = print_operation(module)
    canonical_key(module)
    assert print_operation(module) == before


def test_hints_and_dead_operations_do_not_matter() -> None:
    module = Case(form="causal").module()
    key = canonical_key(module)
    block = attention_of(module).mask.block
    Builder(block, block.ops[0]).binary(arith.AddIOp, block.arguments[2], block.arguments[3])
    attention_of(module).rows = StringAttr("nothing was absorbed")
    assert canonical_key(module) == key


def test_other_programs_have_other_keys() -> None:
    cases = [Case(form=form, group=group) for form in FORMS for group in (1, 4)]
    cases += [Case(dtype=bf16), Case(width=128), Case(value_width=32), Case(lse=False)]
    assert len({canonical_key(case.module()) for case in cases}) == len(cases)


@given(seed=SEED, which=SEED)
@settings(max_examples=60, deadline=None)
def test_one_changed_operation_changes_the_key(seed: int, which: int) -> None:
    module = scored(seed, list(range(len(CAPTURES))))
    key, chosen = canonical_key(module), random.Random(which)
    region = attention_of(module).score
    op = chosen.choice([op for op in region.walk() if op.name in {kind.op_name for kind in KINDS}])
    op.name = chosen.choice([kind.op_name for kind in KINDS if kind.op_name != op.name])
    assert (canonical_key(module) == key) == _unused(op)


def _unused(op: Operation) -> bool:
    """Whether what is yielded does not depend on `op`."""
    return all(user.name != "attn.yield" and _unused(user) for user in op.results[0].users)


def _masked(swap: bool) -> Operation:
    """Keys are kept where n <= m, or where m <= n."""
    q = TensorType((2, 8, 128, 64), f16)
    operands = arguments(q, q, q)
    block = region_block("mask", [])
    m, n = block.arguments[2:4]
    predicate = {"predicate": arith.CmpIOp.predicate_attr("sle")}
    build, pair = Builder(block), [m, n] if swap else [n, m]
    build.create(YieldOp, [build.create(arith.CmpIOp, pair, [i1], predicate).out])
    op = AttentionOp.create(operands, [q, TensorType(q.shape[:3], f32)], {}, [Region(), Region([block])])
    return outline(op.operation, "site")


def test_operands_are_not_reordered() -> None:
    assert canonical_key(_masked(swap=True)) != canonical_key(_masked(swap=False))


def _two_biases(one: TensorType, other: TensorType) -> Operation:
    """s + one[h] - other[h]"""
    q = TensorType((2, 8, 128, 64), f16)
    operands = arguments(q, q, q, one, other)
    block = region_block("score", operands[3:])
    build, h = Builder(block), block.arguments[2]
    first, second = (build.create(ExtractOp, [c, h], [f32]).out for c in block.arguments[-2:])
    build.create(YieldOp, [build.binary(arith.SubFOp, build.binary(arith.AddFOp, block.arguments[0], first), second)])
    op = AttentionOp.create(operands, [q, TensorType(q.shape[:3], f32)], {}, [Region([block]), Region()])
    return outline(op.operation, "site")


def test_which_capture_has_one_element_matters() -> None:
    one, many = TensorType((1,), f32), TensorType((8,), f32)
    keys = {canonical_key(_two_biases(*types)) for types in ((one, many), (many, one), (many, many))}
    assert len(keys) == 3


def test_more_than_one_attention_is_named_by_all_of_it() -> None:
    def chained(names: bool) -> Operation:
        q = TensorType((Symbol("B"), Symbol("H"), Symbol("M"), 64), f16)
        block = Block.with_arguments([q, q, q], ["a", "b", "c"] if names else [])
        values: list[Value] = list(block.arguments)
        op = attention(values)
        block.append(op.operation)
        again = attention([op.out, *values[1:]])
        block.append(again.operation)
        module = ModuleOp.create(regions=[Region([Block()])])
        module.body.block.append(FuncOp.create(regions=[Region([block])]).operation)
        return module.operation

    assert canonical_key(chained(True)) == canonical_key(chained(False))
    assert canonical_key(chained(True)) != canonical_key(Case().module())


def test_every_target_has_a_fingerprint_of_its_own() -> None:
    assert len({device_fingerprint(target) for target in TARGETS}) == len(TARGETS)
    assert {device_fingerprint(name) for name in DEVICES} >= {"sm_80, A100 as described"}


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A processor that a test may change."""
    flags = "avx2 fma f16c avx512f avx512bw avx512dq avx512vl avx512cd"
    found = {"model name": "A CPU", "vendor_id": "Maker", "cpu family": "6", "model": "1", "flags": flags}
    monkeypatch.setattr(host_cpu, "processor", lambda: found)
    monkeypatch.setattr(host_cpu, "machine", lambda: ("linux", "x86_64"))
    return found


@pytest.mark.parametrize(
    ("part", "value"),
    [("model name", "Another CPU"), ("model", "2"), ("flags", "avx2 fma f16c avx512_vnni"), ("flags", "sse2")],
)
def test_another_processor_has_another_fingerprint(processor: dict[str, str], part: str, value: str) -> None:
    before = device_fingerprint("avx2")
    processor[part] = value
    assert device_fingerprint("avx2") != before


def test_caches_and_threads_are_of_the_fingerprint(processor: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning_keys, "_caches", lambda: ("L1 48K", "L2 1024K"))
    monkeypatch.setattr(tuning_keys, "_processors", lambda: 4)
    assert "avx512, A CPU, 4 processors, L1 48K L2 1024K, features " in device_fingerprint("avx512")


def test_a_cpu_that_is_not_here_is_described(processor: dict[str, str]) -> None:
    processor["flags"] = "avx2 fma f16c"
    assert device_fingerprint("avx512") == "avx512, described"


def test_tools_are_named_with_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    assert re.fullmatch(r"torch-mlir \S+, passes [0-9a-f]{8}, ABI \d+", toolchain("avx512"))
    assert toolchain("sm_90").startswith("triton ")
    before = toolchain("avx2")
    monkeypatch.setattr(tuning_keys, "PIPELINE", "builtin.module()")
    assert toolchain("avx2") != before


def test_a_key_has_six_parts() -> None:
    key = Key("hash", "1x8x8x1x64", "sparse", "device", "tools")
    assert key.version == VERSION
    assert key.text == f"hash | 1x8x8x1x64 | sparse | device | tools | {VERSION}"
    parts = {"ir": "x", "bucket": "x", "mask": "x", "device": "x", "toolchain": "x", "version": "x"}
    changed = {replace(key, **{name: value}) for name, value in parts.items()}
    assert len({key, *changed}) == 7
