"""What `--sparsity` says on the command line."""

from __future__ import annotations

import pytest

import attir
from attir import masks
from attir.compiler.sparsity_text import parse_sparsity
from attir.sparsity import select


def test_masks_and_choices_are_read() -> None:
    assert parse_sparsity("causal & window(128)") == masks.causal() & masks.window(128)
    assert parse_sparsity("quest") == select("quest")
    assert parse_sparsity("low_rank(keep=0.25, rank=8)") == select("low_rank", keep=0.25, rank=8)
    assert parse_sparsity(" ") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("quest(", "cannot read --sparsity 'quest('"),
        ("quest(0.1)", "expected named parameters, as in quest(keep=0.1)"),
        ("quest(keep=x)", "expected numbers, but found x"),
        ("quest(keep=2)", "keep must be a fraction in (0, 1], but is 2"),
        ("quest(rank=2)", "estimator 'quest' has no parameter 'rank'"),
        ("quest(**1)", "expected named parameters"),
        ("auto", "use attir.compile and attir.calibrate"),
        ("windo(3)", "there is no mask 'windo'; did you mean 'window'?"),
    ],
)
def test_what_is_neither_is_refused_in_words(text: str, message: str) -> None:
    with pytest.raises(attir.CompileError) as caught:
        parse_sparsity(text)
    assert message in str(caught.value)
