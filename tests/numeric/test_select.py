"""What PyTorch chooses is what `attn.select` means: every estimator and rule against float64 loops in numpy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from unit.compiler.select_ops import Selecting, blockwise, select_of

from attir.compiler.attention_cases import Shape
from attir.compiler.block_scores import split_axis
from attir.compiler.estimators import Grid, main_directions
from attir.compiler.live_blocks import LiveBlocks, Sizes
from attir.compiler.select_blocks import estimator_of, select_blocks
from attir.ir.diagnostics import CompileError
from attir.ir.interpreter import interpret
from attir.ir.interpreter.select import Blocks, importances
from attir.ir.parser import parse_module
from attir.ir.printer import print_operation
from attir.ir.verifier import verify

Numbers = tuple[tuple[str, int | float | str], ...]

BASIS = main_directions(torch.randn(1, 2, 40, 16, generator=torch.Generator().manual_seed(1)), 6)
GATES = tuple(torch.randn(2, 16, 8, generator=torch.Generator().manual_seed(2)))
ESTIMATORS: dict[str, tuple[str, Numbers, tuple[torch.Tensor, ...]]] = {
    "quest": ("quest", (), ()),
    "quest of small pages": ("quest", (("page", 4),), ()),
    "pooled": ("pooled", (), ()),
    "pooled with weights": ("pooled", (("queries", 2),), GATES),
    "low_rank": ("low_rank", (), ()),
    "low_rank of all rows": ("low_rank", (("rank", 4), ("queries", 0)), ()),
    "low_rank with a basis": ("low_rank", (("queries", 3),), (BASIS,)),
    "int4": ("int4", (), ()),
    "int4 of all rows": ("int4", (("queries", 0),), ()),
    "sampled": ("sampled", (("queries", 9),), ()),
    "sampled everywhere": ("sampled", (), ()),
    "centroids": ("centroids", (("clusters", 5),), ()),
    "centroids in two levels": ("centroids", (("clusters", 9), ("levels", 2), ("queries", 2)), ()),
}
RULES: tuple[Numbers, ...] = (
    (("rule", "top_k"), ("keep", 0.3), ("sinks", 1), ("local", 1)),
    (("rule", "threshold"), ("threshold", 0.2), ("sinks", 0), ("local", 0)),
    (("rule", "cumulative"), ("mass", 0.7), ("sinks", 2), ("local", 0)),
)
SHAPES = {
    "prefill": Shape(1, 2, 2, 100, 100),
    "grouped": Shape(2, 4, 2, 67, 67),
    "decode": Shape(2, 4, 2, 1, 77),
    "more keys": Shape(1, 2, 2, 33, 90),
    "one key": Shape(1, 2, 2, 3, 1),
}


def selecting(estimator: str, form: str, shape: Shape) -> Selecting:
    name, numbers, given = ESTIMATORS[estimator]
    return Selecting(name, numbers, form, shape.heads // shape.key_heads, given=given)


def in_numpy(case: Selecting, shape: Shape, seed: int = 0) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    q, k, captures = case.tensors(shape, seed)
    inputs = [x.numpy() for x in (q, k, *captures, *case.given)]
    return interpret(case.module(), "choice", *inputs, precise=True)[0]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_estimates_are_those_of_plain_loops(estimator: str, shape: Shape) -> None:
    case = selecting(estimator, "none" if shape.queries < shape.keys else "causal", shape)
    q, k, captures = case.tensors(shape)
    sizes = Sizes(shape.batch, shape.heads, shape.queries, shape.keys, case.rows, case.block)
    live = LiveBlocks(select_of(case.module()).mask).find(sizes, captures, q.device)
    kind = estimator_of(case.estimator, dict(case.numbers), case.given)
    found = kind.importance(q, kind.summarise(k, case.block), Grid(live, case.case.scale, case.group))
    kept = case.kept(shape, captures).numpy()
    wanted = importances(
        case.estimator, dict(case.numbers), q.double().numpy(), k.double().numpy(), kept, case.case.scale,
        Blocks(shape.queries, shape.keys, case.rows, case.block), [x.double().numpy() for x in case.given],
    )  # fmt: skip
    alive = live.table.expand(found.shape)
    torch.testing.assert_close(found[alive].double(), torch.tensor(wanted)[alive], rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule[0][1]))
@pytest.mark.parametrize("form", ("none", "causal", "window", "documents", "dropped"))
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_choices_are_those_of_the_interpreter(estimator: str, form: str, rule: Numbers) -> None:
    shape = SHAPES["grouped"]
    case = selecting(estimator, form, shape)
    case = replace(case, numbers=(*case.numbers, *rule))
    module = case.module()
    verify(module)
    q, k, captures = case.tensors(shape)
    found = select_blocks(select_of(module), q, k, *captures, *case.given)
    assert found.numpy().tolist() == in_numpy(case, shape).tolist()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_shapes_of_all_kinds_are_chosen_for(estimator: str, shape: Shape) -> None:
    case = selecting(estimator, "none", shape)
    case = replace(case, numbers=(*case.numbers, *RULES[0]))
    q, k, captures = case.tensors(shape)
    found = select_blocks(select_of(case.module()), q, k, *captures, *case.given)
    assert found.numpy().tolist() == in_numpy(case, shape).tolist()


def test_a_gate_takes_the_place_of_an_estimate() -> None:
    shape = SHAPES["grouped"]
    for heads in (2, 4):
        gate = torch.randn(2, heads, 5, 5, generator=torch.Generator().manual_seed(heads))
        case = Selecting("pooled", RULES[0], "causal", 2, given=(gate,))
        q, k, captures = case.tensors(shape)
        found = select_blocks(select_of(case.module()), q, k, *captures, gate)
        assert found.numpy().tolist() == in_numpy(case, shape).tolist()
    with pytest.raises(CompileError, match=r"'gate' must be 2 x 2 or 4 x 5 x 5 .* but is \(1, 4, 5, 5\)"):
        select_blocks(select_of(case.module()), q, k, *captures, gate[:1])


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))
def test_half_types_and_strides_choose_what_float32_does(estimator: str, dtype: torch.dtype) -> None:
    shape = SHAPES["grouped"]
    case = selecting(estimator, "causal", shape)
    op = select_of(replace(case, numbers=(*case.numbers, *RULES[0])).module())
    q, k, captures = case.tensors(shape)
    q, k = q.to(dtype), k.to(dtype)
    wanted = select_blocks(op, q.float(), k.float(), *captures, *case.given)
    assert torch.equal(select_blocks(op, q, k, *captures, *case.given), wanted)
    swapped = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k)]
    assert torch.equal(select_blocks(op, *swapped, *captures, *case.given), wanted)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_no_queries_and_no_keys_give_no_blocks(estimator: str) -> None:
    for queries, keys in ((0, 5), (5, 0), (0, 0)):
        shape = Shape(1, 2, 2, queries, keys)
        case = selecting(estimator, "none", shape)
        q, k, captures = case.tensors(shape)
        found = select_blocks(select_of(case.module()), q, k, *captures, *case.given)
        assert found.shape == (1, 2, -(-queries // 16), -(-keys // 16))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_permuted_heads_have_permuted_choices(estimator: str) -> None:
    shape = Shape(1, 3, 3, 90, 90)
    name, numbers, given = ESTIMATORS[estimator]
    given = (BASIS[:1].expand(3, -1, -1),) if estimator == "low_rank with a basis" else given
    case = Selecting(name, (*numbers, *RULES[0]), "causal", given=given)
    op, (q, k, _) = select_of(case.module()), case.tensors(shape)
    found, order = select_blocks(op, q, k, *given), [2, 0, 1]
    assert torch.equal(select_blocks(op, q[:, order], k[:, order], *given), found[:, order])


@pytest.mark.parametrize(
    "rule", ((("keep", 1.0),), (("rule", "threshold"), ("threshold", 0.0)), (("rule", "cumulative"), ("mass", 1.0)))
)
@pytest.mark.parametrize("form", ("none", "window", "documents"))
def test_to_keep_everything_is_to_keep_every_live_block(form: str, rule: Numbers) -> None:
    shape = SHAPES["grouped"]
    case = Selecting("quest", rule, form, 2)
    q, k, captures = case.tensors(shape)
    found = select_blocks(select_of(case.module()), q, k, *captures)
    wanted = split_axis(blockwise(case.kept(shape, captures), 16, 16), 1, (2, 2)).any(dim=2)
    assert torch.equal(found, wanted)
    assert found.numpy().tolist() == in_numpy(case, shape).tolist()


def test_the_op_can_be_read_back() -> None:
    module = selecting("low_rank with a basis", "documents", SHAPES["grouped"]).module()
    assert print_operation(parse_module(print_operation(module))) == print_operation(module)


def test_sizes_that_do_not_fit_are_refused() -> None:
    case = Selecting("quest", group=2)
    q, k = torch.randn(1, 4, 8, 16), torch.randn(1, 3, 8, 16)
    with pytest.raises(
        CompileError, match=r"sizes do not fit in groups of 2: q is \(1, 4, 8, 16\), k is \(1, 3, 8, 16\)"
    ):
        select_blocks(select_of(case.module()), q, k)
    with pytest.raises(CompileError, match="estimator 'quest' takes 0 tensors, but 1 are given"):
        estimator_of("quest", {}, (q,))
    with pytest.raises(CompileError, match=r"'basis' must be 3 x 16 x rank .* but is \(2, 16, 6\)"):
        estimator_of("low_rank", {}, (BASIS,)).summarise(k, 16)
