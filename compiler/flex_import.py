"""How the higher-order operator behind PyTorch's `flex_attention` holds its arguments and functions.

It is imported as `aten.flex_attention` with two regions, score and mask, of operators on tensors
without axes: what PyTorch traced of `score_mod` and `mask_mod`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import fx

FLEX = "aten.flex_attention"
POSITIONS = {"score": 5, "mask": 4}
"""How many arguments of each function are no captured buffers: the score, and b, h, m and n."""
_LISTS = (
    "kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices",
    "q_num_blocks", "q_indices", "full_q_num_blocks", "full_q_indices",
)  # fmt: skip


def is_flex(node: fx.Node) -> bool:
    """Whether a node is the operator that `flex_attention` becomes under Dynamo."""
    return node.op == "call_function" and getattr(node.target, "__name__", "") == "flex_attention"


def flex_arguments(node: fx.Node) -> Mapping[str, Any]:
    """The arguments by name, in the order in which they stand in the call."""
    query, key, value, score_mod, block_mask, scale, options, score_buffers, mask_buffers = cast(
        "Sequence[Any]", node.args
    )
    # Between the lists and the block sizes stand hints for the backward pass, how many depends on the version.
    q_length, kv_length, *lists_and_hints, q_block, kv_block, mask_mod = cast("Sequence[Any]", block_mask)
    hints = lists_and_hints[len(_LISTS) :]
    return {
        "query": query, "key": key, "value": value, "score_mod": score_mod,
        "q_length": q_length, "kv_length": kv_length,
        **dict(zip(_LISTS, lists_and_hints, strict=False)),
        **{f"hint{i}": hint for i, hint in enumerate(hints)},
        "q_block": q_block, "kv_block": kv_block, "mask_mod": mask_mod, "scale": scale,
        **{f"option_{key.lower()}": option for key, option in cast("Mapping[str, Any]", options).items()},
        "score_buffers": list(score_buffers), "mask_buffers": list(mask_buffers),
    }  # fmt: skip


def flex_functions(node: fx.Node) -> Sequence[tuple[fx.GraphModule, int, Sequence[Any]]]:
    """The graphs of score_mod and mask_mod, how many positions each takes, and its captured buffers."""
    arguments, owner = flex_arguments(node), node.graph.owning_module
    return [
        (getattr(owner, str(arguments[f"{name}_mod"].target)), count, arguments[f"{name}_buffers"])
        for name, count in POSITIONS.items()
    ]
