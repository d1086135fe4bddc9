"""Finds what to compile: `file.py:object`, `package.module:object`, `hf:MODEL_TYPE` or `exported.pt2`."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..ir.diagnostics import error
from .input_spec import InputSpec
from .user_failure import FAILURES, failure

KINDS = "file.py:object, package.module:object, hf:MODEL_TYPE, exported.pt2 or model.mlir"


@dataclass(frozen=True)
class Target:
    """Something callable on tensors, and the inputs it gets when the user names none."""

    name: str
    call: Callable[..., Any]
    default_inputs: tuple[InputSpec, ...] = ()
    largest_integer: int = 100


def load_target(text: str, config: Mapping[str, Any] | None = None) -> Target:
    """The object `text` names; a CompileError says which part of it was not found."""
    if text.startswith("hf:"):
        return _hugging_face(text[3:], dict(config or {}))
    if config:
        raise error(f"--config sets up a transformers model (hf:MODEL_TYPE), but the target is '{text}'")
    if text.endswith(".pt2"):
        return _exported(text, _load_exported(Path(text)))
    place, colon, name = text.rpartition(":")
    if not colon or not place or not name:
        raise error(f"cannot read target '{text}': expected {KINDS}")
    module = _from_file(Path(place)) if place.endswith(".py") else _from_package(place)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise error(f"'{place}' has no '{part}'{_close_to(part, dir(found))}")
        found = getattr(found, part)
    if isinstance(found, type):
        raise error(f"target '{text}' is a class; name a function, or an instance of it")
    if _is_exported(found):
        return _exported(name, found)
    if not callable(found):
        raise error(f"target '{text}' must be a function or a module, but is {type(found).__name__}")
    return Target(name, found)


def _is_exported(found: object) -> bool:
    """Whether an object is a program of torch.export; without PyTorch there are none."""
    torch: Any = sys.modules.get("torch")
    return torch is not None and isinstance(found, torch.export.ExportedProgram)


def _load_exported(path: Path) -> Any:
    if not path.is_file():
        raise error(f"file '{path}' does not exist")
    torch: Any = importlib.import_module("torch")
    try:
        return torch.export.load(path)
    except FAILURES as problem:
        raise failure(f"'{path}' does not load as a program of torch.export", problem) from problem


def _exported(name: str, program: Any) -> Target:
    """A program of torch.export; where the user names no inputs, of the sizes it was exported with."""
    from .torch_types import type_of_dtype

    positional: Any
    named: Any
    positional, named = program.example_inputs or ((), {})
    given: list[tuple[str | None, Any]] = [*((None, value) for value in positional), *named.items()]
    if not all(hasattr(value, "dtype") for _, value in given):
        return Target(name, program.module())
    specs = [InputSpec(key, str(type_of_dtype(value.dtype)), tuple(value.shape)) for key, value in given]
    return Target(name, program.module(), tuple(specs))


def _close_to(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, [k for k in known if not k.startswith("_")], 1)
    return f"; did you mean '{close[0]}'?" if close else ""


def _from_file(path: Path) -> Any:
    if not path.is_file():
        raise error(f"file '{path}' does not exist")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    with _searched(path.parent):
        return _imported(str(path), lambda: _execute(spec.loader, module))


def _execute(loader: Any, module: Any) -> Any:
    loader.exec_module(module)
    return module


def _from_package(name: str) -> Any:
    with _searched(Path.cwd()):
        return _imported(name, lambda: importlib.import_module(name))


@contextlib.contextmanager
def _searched(folder: Path) -> Generator[None]:
    """Modules in `folder` can be imported, as from a script that lies there."""
    entry = str(folder.absolute())
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        sys.path.remove(entry)


def _imported(name: str, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except FAILURES as problem:
        raise failure(f"'{name}' does not import", problem) from problem


def parse_config(text: str, option: str = "--config") -> dict[str, Any]:
    """`hidden_size=64,use_cache=false` as a dictionary of numbers, booleans and strings; `option` is what gave it."""
    config: dict[str, Any] = {}
    for entry in filter(None, (e.strip() for e in text.split(","))):
        key, equals, value = entry.partition("=")
        if not equals or not key.strip().isidentifier():
            raise error(f"cannot read {option} entry '{entry}': expected name=value")
        config[key.strip()] = _value(value.strip())
    return config


def _value(text: str) -> Any:
    named = {"true": True, "false": False, "none": None}
    if text.lower() in named:
        return named[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


SMALL: Mapping[str, Any] = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 128, "n_embd": 64, "n_layer": 2, "n_head": 4, "use_cache": False,
}  # fmt: skip
"""A model small enough for an interpreter; what a model type does not know is left out."""


def _hugging_face(model_type: str, config: dict[str, Any]) -> Target:
    """A randomly initialised transformers model of `model_type`; a causal one where there is one."""
    try:
        torch: Any = importlib.import_module("torch")
        transformers: Any = importlib.import_module("transformers")
    except ImportError as problem:
        raise error(f"hf: targets need transformers: pip install 'attir[models]' ({problem})") from problem
    known: list[str] = list(transformers.CONFIG_MAPPING.keys())
    if model_type not in known:
        raise error(f"transformers has no model type '{model_type}'{_close_to(model_type, known)}")
    blank = transformers.AutoConfig.for_model(model_type)
    unknown = [k for k in config if not hasattr(blank, k) and k != "attn_implementation"]
    if unknown:
        raise error(f"a {model_type} config has no '{unknown[0]}'{_close_to(unknown[0], sorted(blank.to_dict()))}")
    own_names: Mapping[str, str] = blank.attribute_map  # GPT-2's n_layer is what others call num_hidden_layers
    given = {own_names.get(k, k): v for k, v in config.items()}
    settings = {own_names.get(k, k): v for k, v in SMALL.items() if hasattr(blank, k)} | given
    torch.manual_seed(0)
    try:
        model = _built(transformers, model_type, settings)
    except FAILURES as problem:  # each model type has its own demands
        raise failure(
            f"transformers cannot build a {model_type} model of {_assignments(settings)}", problem
        ) from problem
    spread_weights(model)
    inputs = (InputSpec("input_ids", "i64", (2, 32)),)
    return Target(model_type, model, inputs, getattr(model.config, "vocab_size", 100))


def _built(transformers: Any, model_type: str, settings: Mapping[str, Any]) -> Any:
    config = transformers.AutoConfig.for_model(model_type, **settings)
    implementation = settings.get("attn_implementation")
    extra = {"attn_implementation": implementation} if implementation else {}
    causal = type(config) in transformers.AutoModelForCausalLM._model_mapping
    kind = transformers.AutoModelForCausalLM if causal and model_type != "bert" else transformers.AutoModel
    return kind.from_config(config, **extra).eval().requires_grad_(False)


def _assignments(settings: Mapping[str, Any]) -> str:
    return ",".join(f"{key}={value}" for key, value in settings.items())


def spread_weights(model: Any) -> None:
    """Redraw matrices so that scores differ from each other.

    Default initialisation makes a softmax nearly uniform, and then a wrong mask or scale hardly
    shows in the output.
    """
    import torch

    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            with torch.no_grad():
                fan_in = parameter.shape[1]
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * (1.5 / fan_in**0.5))
