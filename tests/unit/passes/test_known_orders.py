"""What a permuted program tells those who plan its kernel: which captures are coordinates, and of how many tokens."""

from __future__ import annotations

import numpy as np
import pytest
from oracle.real_parser import assert_accepted

from attir.compiler.attention_cases import Case
from attir.compiler.mask_grids import neighborhood
from attir.compiler.prepare_site import prepare
from attir.compiler.site_program import SiteProgram
from attir.cost_model.schedule import Schedule
from attir.ir.attributes import f32
from attir.ir.core import Operation
from attir.ir.dialects.attn import AttentionOp
from attir.ir.parser import parse_module
from attir.ir.printer import print_operation
from attir.passes.analyze_mask import AnalyzeMask
from attir.passes.known_orders import KnownOrder
from attir.passes.manager import PassContext
from attir.passes.permute_tokens import PermuteTokens
from attir.passes.plan import PlanAttention

SIDE = 64


def program(*, stride: int = 8, dilation: tuple[int, int] = (1, 1)) -> SiteProgram:
    mask = neighborhood((SIDE, SIDE), 16, stride=stride, dilation=dilation)
    step = PermuteTokens("avx512", force=True, queries=SIDE**2, keys=SIDE**2)
    return prepare(Case(f32, 64, lse=False).module(), mask, [step]).program


def attention_of(module: Operation) -> AttentionOp:
    return next(AttentionOp(op) for op in module.walk() if AttentionOp.match(op))


@pytest.mark.parametrize("dilation", [(1, 1), (1, 3)])
def test_captures_are_told_by_their_place(dilation: tuple[int, int]) -> None:
    """They are the coordinates of tokens in the order that the program makes."""
    site = program(dilation=dilation)
    kernel = site.kernel()
    attention = attention_of(kernel)
    known = KnownOrder.of(attention)
    assert known is not None
    assert (known.queries, known.keys) == (SIDE**2, SIDE**2)
    captures = known.captures(attention, SIDE**2, SIDE**2)
    arguments = attention.mask.block.arguments
    assert list(captures) == arguments[4:]
    order, *coordinates = known.order.arrays(SIDE**2)
    names = [c.name_hint for c in site.attention.captures]
    for name, values in zip(names, captures.values(), strict=True):
        assert name is not None
        expected = {"axis0": order // SIDE, "axis1": order % SIDE}
        if dilation[1] > 1:
            expected |= {"place1": order % SIDE // 3, "residue1": order % SIDE % 3}
        assert any(np.array_equal(values, x) for key, x in expected.items() if name.startswith(key))
    assert len(coordinates) == (2 if dilation[1] == 1 else 4)


def test_texts_of_programs_can_be_read() -> None:
    site = program(dilation=(2, 3))
    for module in (site.module, site.kernel()):
        text = print_operation(module)
        assert print_operation(parse_module(text)) == text
        assert_accepted(text)


@pytest.mark.parametrize("target", ["avx512", "sm_90", "sm_80"])
def test_planners_list_the_tiles_of_boxes(target: str) -> None:
    kernel = program().kernel()
    for step in (AnalyzeMask(), PlanAttention(target)):
        step.run(kernel, PassContext())
    assert Schedule.of(attention_of(kernel)).lists == 1
