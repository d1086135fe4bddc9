"""Options are checked before anything runs, in words that name what is expected."""

from __future__ import annotations

from typing import Any

import pytest

import attir
from attir.compiler.options import Options


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"backend": "foo"}, "unknown backend 'foo'; expected auto, native, triton, interpret"),
        ({"rest": "foo"}, "unknown rest 'foo'; expected eager, inductor"),
        ({"autotune": "top3"}, "autotune='top3' is not available yet"),
        ({"max_error": 0.1}, "max_error=0.1 is not available yet"),
        ({"sparsity": 0.5}, "sparsity=0.5 is not available yet"),
        ({"quantize": "int8"}, "quantize='int8' is not available yet"),
        ({"strict": 1}, "strict must be True or False, but is 1"),
        ({"cache": None}, "cache must be True or False, but is None"),
        ({"dynamic": "yes"}, "dynamic must be True or False, but is 'yes'"),
        ({"dump": ""}, "dump must name a directory"),
    ],
)
def test_a_wrong_option_is_refused_in_words(option: dict[str, Any], message: str) -> None:
    with pytest.raises(attir.CompileError) as caught:
        Options(**option)
    assert message in str(caught.value)


def test_compile_checks_options_at_once() -> None:
    with pytest.raises(attir.CompileError, match="unknown backend 'cuda'"):
        attir.compile(lambda x: x, backend="cuda")  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]


def test_what_cannot_be_compiled_is_refused() -> None:
    with pytest.raises(attir.CompileError, match=r"cannot compile 3: expected an nn\.Module"):
        attir.compile(3)  # pyright: ignore[reportArgumentType, reportCallIssue]


def test_what_was_not_compiled_cannot_be_explained() -> None:
    with pytest.raises(attir.CompileError, match=r"not the result of attir\.compile"):
        attir.explain(print)
