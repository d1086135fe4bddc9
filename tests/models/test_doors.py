"""A model comes in through Dynamo, through torch.export or as text of torch-mlir, and is the same to attir."""

from __future__ import annotations

import importlib
import warnings
from functools import cache
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch.export import Dim, ExportedProgram

import attir
from attir.compiler.agreement import compare
from attir.compiler.backend import Backend
from attir.compiler.mlir_program import compile_program
from attir.compiler.options import Options
from attir.compiler.target import load_target, spread_weights

LENGTH = 24
MODELS = (
    ("llama", "eager"),
    ("gpt2", "sdpa"),
    ("bert", "sdpa"),
    pytest.param("t5", "eager", marks=pytest.mark.slow),
    ("vit", "eager"),
)


@cache
def model_of(kind: str, implementation: str) -> Any:
    if kind != "vit":
        return load_target(f"hf:{kind}", {"attn_implementation": implementation}).call
    transformers: Any = importlib.import_module("transformers")
    config = transformers.ViTConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, image_size=32, patch_size=8,
        attn_implementation=implementation,
    )  # fmt: skip
    cast(Any, torch).manual_seed(0)
    model = transformers.ViTModel(config).eval().requires_grad_(False)
    spread_weights(model)
    return model


def inputs_of(kind: str) -> tuple[torch.Tensor | None, ...]:
    generator = torch.Generator().manual_seed(3)
    if kind == "vit":
        return (torch.randn(2, 3, 32, 32, generator=generator),)
    tokens = torch.randint(0, 100, (2, LENGTH), generator=generator)
    return (tokens, None, tokens) if kind == "t5" else (tokens,)


def exported(kind: str, implementation: str, dynamic: Any = None) -> ExportedProgram:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inputs = cast("tuple[Any, ...]", inputs_of(kind))
        return torch.export.export(model_of(kind, implementation), inputs, dynamic_shapes=dynamic, strict=False)


def hashes(compiled: Any) -> list[str]:
    sites = attir.explain(compiled).sites
    assert sites and all(site.status == "fused" for site in sites)
    return [site.ir_hash for site in sites]


def tensors(result: Any) -> list[torch.Tensor]:
    values: list[Any] = list(result) if isinstance(result, tuple) else list(result.values())  # pyright: ignore[reportUnknownArgumentType]
    return [value for value in values if isinstance(value, torch.Tensor)]


@cache
def captured(kind: str, implementation: str) -> tuple[list[str], list[torch.Tensor]]:
    """The sites of a model that Dynamo captures, and what it computes."""
    return hashes_and_result(model_of(kind, implementation), kind)


def hashes_and_result(model: Any, kind: str) -> tuple[list[str], list[torch.Tensor]]:
    # All of transformers' models are called through one function: Dynamo would take what differs for dynamic.
    torch._dynamo.reset()  # pyright: ignore[reportPrivateUsage]
    compiled = attir.compile(model, strict=True)
    with torch.no_grad():
        result = tensors(compiled(*inputs_of(kind)))
    return hashes(compiled), result


@pytest.mark.parametrize(("kind", "implementation"), MODELS)
def test_an_exported_program_has_the_hashes_of_the_captured_model(kind: str, implementation: str) -> None:
    expected, outputs = captured(kind, implementation)
    found, exported_outputs = hashes_and_result(exported(kind, implementation), kind)
    assert found == expected
    torch.testing.assert_close(exported_outputs[0], outputs[0])


def text_of(program: ExportedProgram, *, generic: bool = False, locations: bool = False, **settings: Any) -> str:
    """What torch-mlir's importer writes; buffers that are not persistent need its support for mutation."""
    importer: Any = importlib.import_module("torch_mlir.fx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = importer.export_and_import(program, output_type="raw", experimental_support_mutation=True, **settings)
    return module.operation.get_asm(print_generic_op_form=generic, enable_debug_info=locations)


def compiled_text(path: Path) -> tuple[Backend, list[torch.Tensor], list[torch.Tensor]]:
    """The backend that has compiled a text, its result on random inputs, and that of the graph it was."""
    backend = Backend(Options(strict=True))
    result, eager = compile_program(str(path), [], backend, executes=True)
    return backend, list(result), list(eager())


@pytest.mark.parametrize(
    ("kind", "implementation", "form"),
    [
        ("llama", "eager", {}),
        ("bert", "sdpa", {"generic": True}),
        pytest.param("t5", "eager", {}, marks=pytest.mark.slow),
        ("vit", "eager", {"locations": True}),
    ],
    ids=["llama", "bert, generic form", "t5", "vit, with locations"],
)
def test_text_of_torch_mlir_raises_to_the_same_sites(
    kind: str, implementation: str, form: dict[str, bool], tmp_path: Path
) -> None:
    expected, _ = captured(kind, implementation)
    path = tmp_path / "model.mlir"
    path.write_text(text_of(exported(kind, implementation), **form))
    backend, ours, eager = compiled_text(path)
    assert [site.ir_hash for site in backend.report.sites] == expected
    assert compare(ours, eager).holds
    places = {Path(site.location.rpartition(":")[0]).name for site in backend.report.sites}
    assert places == {"model.mlir"} if "locations" not in form else "model.mlir" not in places


def test_the_weights_in_a_text_are_those_of_the_model(tmp_path: Path) -> None:
    path = tmp_path / "model.mlir"
    path.write_text(text_of(exported("vit", "eager")))
    backend = Backend(Options(strict=True))
    _, eager = compile_program(str(path), [], backend, executes=False)
    graph: Any = cast(Any, eager).__closure__
    module = next(cell.cell_contents for cell in graph if isinstance(cell.cell_contents, torch.fx.GraphModule))
    (pixels,) = inputs_of("vit")
    with torch.no_grad():
        expected = tensors(model_of("vit", "eager")(pixels))
        torch.testing.assert_close(list(module(pixels)), expected)


@pytest.mark.parametrize(
    ("named", "decomposed"), [(True, True), (False, False)], ids=["named, taken apart", "unnamed, whole operators"]
)
def test_dynamic_sizes_of_a_text(named: bool, decomposed: bool, tmp_path: Path) -> None:
    """Sizes may have names or not, and operators may be as PyTorch has them or as torch-mlir takes them apart."""
    expected, _ = captured("gpt2", "eager")
    sizes = ({0: Dim("batch", min=2, max=64), 1: Dim("length", min=2, max=512)},)
    settings: dict[str, Any] = {"import_symbolic_shape_expressions": named}
    settings |= {} if decomposed else {"decomposition_table": {}}
    path = tmp_path / "model.mlir"
    path.write_text(text_of(exported("gpt2", "eager", sizes), **settings))
    backend, ours, eager = compiled_text(path)
    assert [site.ir_hash for site in backend.report.sites] == expected
    assert compare(ours, eager).holds
