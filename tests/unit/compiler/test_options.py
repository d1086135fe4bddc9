"""Options are checked before anything runs, in words that name what is expected."""

from __future__ import annotations

from typing import Any

import pytest

import attir
from attir.compiler.options import Options
from attir.sparsity import select


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"backend": "foo"}, "unknown backend 'foo'; expected auto, native, triton, interpret"),
        ({"rest": "foo"}, "unknown rest 'foo'; expected eager, inductor"),
        (
            {"autotune": "best"},
            "unknown autotune 'best'; expected 'off', 'topK' with a number K such as 'top3', 'full'",
        ),
        ({"autotune": "top0"}, "unknown autotune 'top0'"),
        ({"autotune": "background:off"}, "unknown autotune 'background:off'"),
        ({"autotune": "background:"}, "unknown autotune 'background:'"),
        ({"autotune": 3}, "autotune must be a string, but is 3; expected 'off'"),
        ({"tune_seconds": 0}, "tune_seconds must be a positive number of seconds for a site, but is 0"),
        (
            {"tune_seconds": float("inf"), "autotune": "top3"},
            "must be a positive number of seconds for a site, but is inf",
        ),
        (
            {"autotune": "top3", "backend": "interpret"},
            "autotune='top3' measures kernels, but backend 'interpret' runs",
        ),
        ({"max_error": 0.1}, "max_error=0.1 is a budget for sparsity='auto' or quantize='auto', or for a scheme"),
        ({"max_error": 0, "sparsity": "auto"}, "max_error must be a positive relative error, but is 0"),
        ({"max_error": float("nan"), "sparsity": "auto"}, "max_error must be a positive relative error, but is nan"),
        ({"sparsity": "auto"}, "sparsity='auto' needs max_error=, the relative L2 error that a site may have"),
        ({"quantize": "auto"}, "quantize='auto' needs max_error=, the relative L2 error that outputs may have"),
        ({"quantize": "auto", "sparsity": "auto", "max_error": 0.1}, "sparsity and quantize cannot both be 'auto'"),
        ({"quantize": "int8", "sparsity": "auto", "max_error": 0.1}, "sparsity='auto' compares choices of blocks with"),
        ({"sparsity": 0.5}, "sparsity must be a mask of attir.masks, attir.sparsity.select(...) or 'auto', but is 0.5"),
        ({"sparsity": select("quest"), "max_error": 0.1}, "max_error=0.1 is a budget for sparsity='auto'"),
        ({"sparsity": select("quest"), "backend_options": {"gluon": True}}, "kernels in Gluon read no block lists"),
        ({"sparsity": select("quest"), "backend_options": {"specialised": 1}}, "specialised warps visit no listed"),
        ({"sparsity": select("quest"), "fuse_rows": "always"}, "fuse_rows='always' makes RoPE and norms part"),
        ({"quantize": "int9"}, "unknown scheme 'int9'; expected int8, fp8, kv8"),
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


@pytest.mark.parametrize(
    ("text", "count", "background"),
    [
        ("off", 0, False),
        ("top1", 1, False),
        ("top24", 24, False),
        ("full", None, False),
        ("background", 3, True),
        ("background:top8", 8, True),
        ("background:full", None, True),
    ],
)
def test_how_much_is_measured(text: str, count: int | None, background: bool) -> None:
    tuning = Options(autotune=text, tune_seconds=2).tuning
    assert (tuning.count, tuning.background, tuning.seconds) == (count, background, 2.0)
    assert tuning.wanted == (text != "off")


def test_compile_checks_options_at_once() -> None:
    with pytest.raises(attir.CompileError, match="unknown backend 'cuda'"):
        attir.compile(lambda x: x, backend="cuda")  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]


def test_what_cannot_be_compiled_is_refused() -> None:
    with pytest.raises(attir.CompileError, match=r"cannot compile 3: expected an nn\.Module"):
        attir.compile(3)  # pyright: ignore[reportArgumentType, reportCallIssue]


def test_what_was_not_compiled_cannot_be_explained() -> None:
    with pytest.raises(attir.CompileError, match=r"not the result of attir\.compile"):
        attir.explain(print)
