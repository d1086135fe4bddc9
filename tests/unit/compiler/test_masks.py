"""Masks as values: equality, text, sizes, tensors, and an error in words for every bad argument."""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from attir import CompileError, masks
from attir.masks import Mask

IDS = torch.tensor([0, 0, 1, 1, 1])
anything: Any = masks
"""The constructors, called with what their types forbid."""


def test_equal_constructors_of_equal_numbers_are_equal() -> None:
    pairs: list[Callable[[], Mask]] = [
        lambda: masks.causal() & ~masks.window(4),
        lambda: masks.neighborhood((4, 5), (2, 3), causal=(True, False)),
        lambda: masks.tree([-1, 0, 0], prefix=3),
        lambda: masks.document(lengths=[3, 4]),
        lambda: masks.vertical_slash([1, 5], range(0, 99, 2)),
        lambda: masks.document(IDS),
    ]
    for make in pairs:
        assert make() == make() and hash(make()) == hash(make())
    assert len({make() for make in pairs}) == len(pairs)


def test_tensors_are_told_apart_by_identity() -> None:
    assert masks.document(IDS) != masks.document(IDS.clone())
    assert (masks.document(IDS) & masks.document(IDS)).tensors == (IDS,)


def test_masks_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        masks.causal().text = ""  # type: ignore[misc]


@pytest.mark.parametrize(
    ("mask", "text"),
    [
        (masks.causal(), "causal()"),
        (masks.causal(-3), "causal(-3)"),
        (masks.window(4, 1), "window(4, 1)"),
        (masks.causal() & masks.window(4) & masks.prefix(1), "causal() & window(4) & prefix(1)"),
        (~(masks.causal() | masks.prefix(3)) & masks.window(4), "~(causal() | prefix(3)) & window(4)"),
        (masks.causal() & masks.window(4) | masks.prefix(3), "(causal() & window(4)) | prefix(3)"),
        (~masks.causal(), "~causal()"),
        (masks.document(lengths=[3, 4]), "document(lengths=[3, 4])"),
        (masks.neighborhood(9, 3, 2), "neighborhood((9,), (3,), stride=(2,))"),
        (masks.tree([-1, 0], 5), "tree([-1, 0], 5)"),
        (masks.vertical_slash([3, 1], [0]), "vertical_slash([1, 3], [0])"),
    ],
)
def test_the_text_of_a_mask_is_the_call_that_makes_it(mask: Mask, text: str) -> None:
    assert str(mask) == repr(mask) == text
    assert eval(text, {name: getattr(masks, name) for name in masks.__all__}) == mask


def test_numbers_give_a_bool_and_tensors_a_tensor() -> None:
    mask = masks.causal() & ~masks.document(IDS)
    assert mask(0, 0, 4, 1) is True and mask(0, 0, 4, 3) is False
    m = torch.arange(5)
    assert torch.equal(mask(0, 0, m[:, None], m), mask.dense(5, 5))


def test_dense_has_axes_where_they_matter() -> None:
    per_batch = masks.prefix(torch.tensor([1, 2]))
    per_head = masks.strided_shards(3, 2)
    assert masks.prefix(2).dense(4, 5, batch=2, heads=3).shape == (4, 5)
    assert masks.window(2).dense(4, 5, batch=2, heads=3).shape == (4, 5)
    assert per_head.dense(4, 5, batch=2, heads=3).shape == (3, 4, 5)
    assert per_batch.dense(4, 5, batch=2, heads=3).shape == (2, 1, 4, 5)
    assert (per_head | per_batch).dense(4, 5, batch=2, heads=3).shape == (2, 3, 4, 5)
    assert masks.causal().dense(4, 5).dtype == torch.bool


def test_other_tensors_in_the_same_mask() -> None:
    mask = masks.causal() & ~masks.document(IDS)
    other = mask.with_tensors([IDS.flip(0)])
    assert torch.equal(other.dense(5, 5), (masks.causal() & ~masks.document(IDS.flip(0))).dense(5, 5))
    assert mask.to("meta").tensors[0].device.type == "meta"
    assert masks.causal().to("meta") == masks.causal()


def test_a_window_counts_the_own_key() -> None:
    assert masks.window(3, 1).dense(5, 5)[4].tolist() == [False, False, True, True, True]
    assert masks.window(2).dense(5, 5)[2].tolist() == [False, True, True, True, False]


def test_longlora_wraps_only_where_the_length_is_known() -> None:
    wrapping, open_ended = masks.shifted_groups(4, 2, 12), masks.shifted_groups(4, 2)
    assert wrapping(0, 1, 0, 11) and not open_ended(0, 1, 0, 11)
    assert not wrapping(0, 0, 0, 11)


def test_a_strided_neighborhood_shares_the_window_of_the_middle() -> None:
    rows = masks.neighborhood(8, 4, 4).dense(8, 8)
    assert all(torch.equal(rows[i], rows[i - i % 4]) for i in range(8))
    assert rows[0].nonzero().flatten().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: anything.window(0), "left must be at least 1, but is 0"),
        (lambda: anything.window(4, -1), "right must be at least 1, but is -1"),
        (lambda: anything.window(2.5), "left must be a whole number, but is 2.5"),
        (lambda: anything.window(True), "left must be a whole number, but is True"),
        (lambda: anything.causal("1"), "offset must be a whole number, but is '1'"),
        (lambda: anything.dilated(4, 0), "dilation must be at least 1, but is 0"),
        (lambda: anything.prefix(-1), "length must be at least 0, but is -1"),
        (lambda: anything.prefix(torch.tensor(3)), r"length must be a number or a tensor \(B,\), but has shape \(\)"),
        (lambda: anything.prefix(torch.tensor([0.5])), "length must be a tensor of integers, but is of torch.float32"),
        (lambda: anything.document(), "document needs the ids of the tokens' documents, or the lengths"),
        (lambda: anything.document(IDS, lengths=[5]), "and not both"),
        (lambda: anything.document([0, 1]), "ids must be a tensor of integers, but is .0, 1.; .* `lengths=`"),
        (lambda: anything.document(IDS.float()), "ids must be a tensor of integers, but is of torch.float32"),
        (lambda: anything.document(IDS.view(1, 1, 5)), r"ids must have shape \(N,\) or \(B, N\), but have \(1, 1, 5\)"),
        (lambda: anything.document(lengths=[3, 0]), r"lengths\[1\] must be at least 1, but is 0"),
        (lambda: anything.document(lengths=5), "lengths must be a list of whole numbers, but is 5"),
        (lambda: anything.sink_window(-1, 4), "sinks must be at least 0, but is -1"),
        (lambda: anything.global_window(1, 0), "window must be at least 1, but is 0"),
        (lambda: anything.block_diagonal(0), "size must be at least 1, but is 0"),
        (lambda: anything.neighborhood((4, 4), (5, 2)), "a window of 5 does not fit axis 0 of 4 cells"),
        (
            lambda: anything.neighborhood((4, 9), (2, 5), 1, 2),
            "dilation 2 spans 10 cells does not fit axis 1 of 9",
        ),
        (lambda: anything.neighborhood(9, 3, 4), "a stride of 4 on axis 0 is larger than the window of 3"),
        (lambda: anything.neighborhood((2, 2, 2, 2), 1), "a grid has 1, 2 or 3 axes, but shape .* has 4"),
        (lambda: anything.neighborhood((4, 4), (2, 2, 2)), r"window \(2, 2, 2\) has 3 entries for the 2 axes"),
        (lambda: anything.neighborhood((4, 4), 2, causal=1), "causal must be True or False for each axis, but is 1"),
        (lambda: anything.neighborhood((4, 4), 2, causal=[True]), r"causal .* has 1 entries for the 2 axes"),
        (lambda: anything.strided_shards(4, stride=5), "a stride of 5 blocks leaves keys that none of 4 heads sees"),
        (lambda: anything.shifted_groups(5, 4), "size must be even, so that half of it can shift, but is 5"),
        (lambda: anything.shifted_groups(4, 3), "heads must be even, so that half of it can shift, but is 3"),
        (lambda: anything.shifted_groups(4, 2, 10), "length must be a multiple of the group of 4 .* but is 10"),
        (lambda: anything.tree([]), "a tree needs at least one node"),
        (lambda: anything.tree([-1, 5]), r"parents\[1\] is 5, but the tree has only 2 nodes"),
        (lambda: anything.tree([-1, 2, 1]), "node 1 has no root among its ancestors: parents must not form a cycle"),
        (lambda: anything.tree([-1, -2]), r"parents\[1\] must be at least -1, but is -2"),
        (lambda: anything.vertical_slash([], []), "needs at least one vertical or one slash"),
        (lambda: anything.vertical_slash([-1], []), r"verticals\[0\] must be at least 0, but is -1"),
        (lambda: anything.causal() & True, "only masks combine with masks, but the right side of '&' is True"),
        (lambda: anything.causal() | IDS, r"the right side of '\|' is a tensor of torch.int64 with shape \(5,\)"),
        (lambda: anything.causal() and anything.window(3), "combine masks with &, | and ~ in place of 'and'"),
        (lambda: not anything.causal(), "a mask is neither true nor false"),
    ],
)
def test_bad_arguments_are_said_in_words(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(CompileError, match=message):
        make()


@pytest.mark.parametrize(
    ("mask", "sizes", "message"),
    [
        (masks.strided_shards(4), (8, 8, 1, 1), "strided_shards.4, 64, 1, 4. is for 4 heads, but there is 1"),
        (masks.document(IDS), (5, 6, 1, 1), "document.ids. is for at most 5 keys, but there are 6"),
        (masks.document(IDS[None]), (5, 5, 2, 1), "is for a batch of 1, but there are 2"),
        (masks.causal() & ~masks.neighborhood((3, 3), 2), (8, 9, 1, 1), "is for 9 queries, but there are 8"),
        (masks.tree([-1, 0], 5), (2, 6, 1, 1), "is for 7 keys, but there are 6"),
        (masks.shifted_groups(4, 2, 8), (4, 8, 1, 2), "is for 8 queries, but there are 4"),
        (masks.prefix(torch.tensor([1])), (4, 4, 3, 1), "is for a batch of 1, but there are 3"),
    ],
)
def test_sizes_that_a_mask_was_not_made_for(mask: Mask, sizes: tuple[int, int, int, int], message: str) -> None:
    queries, keys, batch, heads = sizes
    with pytest.raises(CompileError, match=message):
        mask.dense(queries, keys, batch=batch, heads=heads)


def test_importing_attir_leaves_torch_alone_until_masks_are_asked_for() -> None:
    code = (
        "import sys, attir; assert 'torch' not in sys.modules; "
        "attir.masks.causal(); assert 'torch' in sys.modules; print(attir.masks.window(3))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "window(3)\n"), done.stderr
