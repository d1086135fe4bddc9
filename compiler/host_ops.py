"""What PyTorch computes around the kernel of a site program: each operation by name, on the device of its tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias
from weakref import WeakKeyDictionary

import torch

from ..ir.core import Operation
from ..ir.dialects.attn import QueryPositionsOp, SelectOp
from ..ir.dialects.attn_storage import MergeOp, ProjectOp, QuantizeOp, SubtractMeanOp
from ..ir.dialects.attn_tokens import GatherTokensOp, ScatterTokensOp, TokenOrderOp
from .quantize_ops import merge, project, quantize, subtract_mean
from .token_order import gather_tokens, scatter_tokens, token_order

if TYPE_CHECKING:
    from .kept_summaries import KeptSummaries

HostOp: TypeAlias = Callable[[Operation, Sequence[torch.Tensor]], Sequence[torch.Tensor]]
"""`run(op, operands) -> results`."""


def _select(op: Operation, tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    from .kept_summaries import KeptSummaries
    from .select_blocks import estimator_of, select_blocks

    select, q, k = SelectOp(op), *tensors[:2]
    summary = None
    if select.numbers.get("append_only"):
        kept = _kept.setdefault(op, KeptSummaries())
        given = tensors[len(tensors) - select.given.value :]
        estimator = estimator_of(select.estimator.value, select.numbers, given)
        summary = kept.summary(estimator, select.block_n.value, k, q.shape[2])
    return [select_blocks(select, *tensors, summary=summary)]


_kept: WeakKeyDictionary[Operation, KeptSummaries] = WeakKeyDictionary()
"""For each choice that only sees caches grow, their summaries."""


def _query_positions(op: Operation, tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    from .query_positions import query_positions

    return [query_positions(QueryPositionsOp(op), *tensors)]


HOST_OPS: Mapping[str, HostOp] = {
    SelectOp.op_name: _select,
    QueryPositionsOp.op_name: _query_positions,
    TokenOrderOp.op_name: token_order,
    GatherTokensOp.op_name: gather_tokens,
    ScatterTokensOp.op_name: scatter_tokens,
    QuantizeOp.op_name: quantize,
    SubtractMeanOp.op_name: subtract_mean,
    ProjectOp.op_name: project,
    MergeOp.op_name: merge,
}
