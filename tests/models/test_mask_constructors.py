"""Every mask of attir.masks inside a compiled attention: fused, right, and never built as a matrix.

Bound: our error is at most twice that of PyTorch's attention on the dense mask, plus one rounding of
the weights and one of the result.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportPrivateUsage=false, reportUnknownLambdaType=false

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from models.test_attention_gym import compiled_graph, matrices
from numeric.closeness import NATIVE, assert_within, error
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

import attir
from attir import masks
from attir.masks import Mask

pytestmark = NATIVE
HEADS, WIDTH = 4, 16
IDS = torch.repeat_interleave(torch.arange(4), torch.tensor([10, 33, 1, 25]))
PARENTS = [-1, 0, 0, 1, 1, 2, 3, 3, 5, 5, 5, 8, -1, 12, 12, 13, 15, 15, 6]


@dataclass(frozen=True)
class Case:
    """A mask and the sizes to attend with."""

    name: str
    mask: Mask
    queries: int
    keys: int
    batch: int = 1

    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        draw = torch.Generator().manual_seed(len(self.name))
        sizes = (self.queries, self.keys, self.keys)
        q, k, v = (torch.randn(self.batch, HEADS, size, WIDTH, generator=draw) for size in sizes)
        return q, k, v

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        kept = self.mask.dense(q.shape[2], k.shape[2], batch=q.shape[0], heads=q.shape[1])
        return scaled_dot_product_attention(q, k, v, attn_mask=kept)

    def exact(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        kept = self.mask.dense(self.queries, self.keys, batch=self.batch, heads=HEADS)
        scores = q.double() @ k.double().mT / math.sqrt(WIDTH)
        return scores.masked_fill(~kept, -math.inf).softmax(-1).nan_to_num(0.0) @ v.double()


CASES = (
    Case("causal", masks.causal(), 77, 77),
    Case("causal_behind_keys", masks.causal(9), 20, 29),
    Case("window", masks.window(9), 131, 131),
    Case("window_of_the_last_keys", masks.window(9, 1), 131, 131),
    Case("dilated", masks.dilated(5, 4), 83, 83),
    Case("prefix", masks.prefix(13), 71, 71),
    Case("prefix_lm_of_each_batch", masks.prefix(torch.tensor([13, 40])) | masks.causal(), 71, 71, 2),
    Case("documents_before", masks.document(IDS) & masks.causal(), 69, 69),
    Case("documents_of_each_batch", masks.document(torch.stack([IDS, IDS.flip(0)])), 69, 69, 2),
    Case("documents_by_length", masks.document(lengths=[10, 33, 26]), 69, 69),
    Case("sink_window", masks.sink_window(4, 16), 150, 150),
    Case("global_window", masks.global_window(3, 8), 149, 149),
    Case("block_diagonal", masks.block_diagonal(24), 150, 150),
    Case("neighborhood_1d", masks.neighborhood(97, 7), 97, 97),
    Case("neighborhood_2d", masks.neighborhood((7, 9), (3, 5)), 63, 63),
    Case("neighborhood_2d_all", masks.neighborhood((12, 11), (4, 5), (2, 3), (3, 2), (False, True)), 132, 132),
    Case("neighborhood_3d", masks.neighborhood((4, 6, 5), (2, 3, 3), (1, 3, 2)), 120, 120),
    Case("strided_shards", masks.strided_shards(HEADS, 16, 2), 149, 149),
    Case("shifted_groups", masks.shifted_groups(16, HEADS) & masks.causal(), 149, 149),
    Case("shifted_groups_that_wrap", masks.shifted_groups(16, HEADS, 160), 160, 160),
    Case("tree", masks.tree(PARENTS), 19, 19),
    Case("tree_behind_a_prefix", masks.tree(PARENTS, 40), 19, 59),
    Case("vertical_slash", masks.vertical_slash([0, 1, 5, 40], [0, 1, 2, 17, 60]), 149, 149),
    Case("many_slashes", masks.vertical_slash([], range(0, 130, 2)), 149, 149),
    Case("rest_of_a_window", masks.causal() & ~masks.window(5) | masks.block_diagonal(7), 77, 77),
    Case("rows_without_keys", masks.window(3) & ~masks.block_diagonal(5) & masks.document(IDS), 69, 69),
    Case("shards_in_documents", masks.strided_shards(HEADS, 8) & masks.document(IDS), 69, 69),
)
every_case = pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)


@pytest.fixture(autouse=True)
def fresh_dynamo() -> None:
    torch._dynamo.reset()


def check(case: Case, function: Callable[..., Tensor], *more: object) -> attir.Report:
    inputs = case.inputs()
    compiled = attir.compile(function, strict=True, dynamic=False)
    with torch.no_grad():
        ours, plain = compiled(*inputs, *more), case.attend(*inputs)
    report = attir.explain(compiled)
    assert [s.status for s in report.sites] == ["fused"], str(report)
    exact = case.exact(*inputs)
    slack = 2 * torch.finfo(torch.float32).eps * inputs[2].abs().max().item()
    assert_within(ours, exact, 2 * error(plain, exact) + slack)
    return report


@every_case
def test_dense_in_sdpa(case: Case) -> None:
    """The mask is read as arithmetic on positions, and no captured tensor is read by query and by key."""
    (site,) = check(case, case.attend).sites
    read = [indices.split(", ") for indices in re.findall(r"\[(.*?)\]", site.form)]
    assert not any("m" in indices and "n" in indices for indices in read), site.form
    assert site.form.count("[") == len(read)


@pytest.mark.slow
@every_case
def test_as_mask_mod(case: Case) -> None:
    blocks = create_block_mask(case.mask, case.batch, HEADS, case.queries, case.keys, "cpu", BLOCK_SIZE=32)
    check(case, lambda q, k, v, given: flex_attention(q, k, v, block_mask=given), blocks)


def test_a_mask_mod_with_its_block_mask_made_outside() -> None:
    case = next(c for c in CASES if c.name == "shards_in_documents")
    blocks = create_block_mask(case.mask, None, HEADS, case.queries, case.keys, "cpu", BLOCK_SIZE=32)
    check(case, lambda q, k, v, given: flex_attention(q, k, v, block_mask=given), blocks)


@every_case
def test_masks_keep_what_would_be_missed(case: Case) -> None:
    """Some scores are kept and some dropped, and rows are empty only where they should be."""
    kept = case.mask.dense(case.queries, case.keys, batch=case.batch, heads=HEADS)
    assert 0.01 < kept.float().mean().item() < 0.98
    assert (~kept).all(-1).any().item() == (case.name == "rows_without_keys")


def test_masks_made_inside_the_compiled_function() -> None:
    """Constructors are traced, too, and their tables become constants."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        size = q.shape[2]
        near = masks.window(9) & masks.causal() | masks.neighborhood((7, 11), (3, 3)).complement()
        lines = masks.vertical_slash([1, 2], [1, 2, 7]) | masks.tree([-1, *range(size - 1)])
        mask = near & (lines | masks.document(lengths=[30, 47])) | masks.strided_shards(HEADS, 8)
        return scaled_dot_product_attention(q, k, v, attn_mask=mask.dense(size, size, heads=HEADS))

    inputs = Case("inside", masks.causal(), 77, 77).inputs()
    graph = compiled_graph(attend, *inputs)
    assert matrices(graph, 77, 77) == []
    torch._dynamo.reset()
    compiled = attir.compile(attend, strict=True)
    with torch.no_grad():
        assert_within(compiled(*inputs), attend(*inputs), 1e-6)
    assert [s.status for s in attir.explain(compiled).sites] == ["fused"]


def test_one_program_serves_changing_lengths() -> None:
    case = next(c for c in CASES if c.name == "documents_before")
    compiled = attir.compile(case.attend, strict=True, dynamic=True)
    for length in (60, 40, 7):
        q, k, v = (torch.randn(1, HEADS, length, WIDTH) for _ in range(3))
        with torch.no_grad():
            assert_within(compiled(q, k, v), case.attend(q, k, v), 1e-6)
    assert len(attir.explain(compiled).graphs) == 1
