"""Statistics of attention, by which policies for KV caches rank tokens: of tensors, or of sites of a compiled model."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from inspect import getclosurevars
from types import CellType, FunctionType
from typing import Any, cast

import torch

from ..ir.attributes import FloatAttr, IntegerAttr, TensorType, f32
from ..ir.builder import Builder
from ..ir.core import Block, Operation, Region
from ..ir.diagnostics import CompileError, error
from ..ir.dialects.attn import AttentionOp
from .api import backend_of
from .custom_op import Inputs, watched_calls
from .mask_algebra import Held, Mask
from .mask_constructors import causal as causal_mask
from .mask_region import restrict
from .places import place_for
from .prepare_site import prepare
from .side_outputs import SideOutputs, Statistics, Wanted
from .site_program import ProgramRunner, SiteProgram
from .sites import outline
from .torch_types import type_of_value

MaskMod = Callable[[Any, Any, Any, Any], Any]
REMEMBERED = 32
"""Forms of attention whose kernels are found again without deriving them."""


def statistics(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor | None = None,
    *,
    scale: float | None = None,
    mask: Mask | MaskMod | None = None,
    causal: bool = False,
    column_mass: bool = True,
    column_square: bool = False,
    entropy: bool = False,
    block_max: tuple[int, int] | None = None,
    block_scores: bool = False,
    last: int | None = None,
    backend: str = "auto",
) -> Statistics:
    """What the weights of attention of q (B, H, M, D) over k (B, K, N, D) say of keys, rows and blocks.

    Scores are scale * q·k, by default with 1 / sqrt(D), of the keys that `mask` (of `attir.masks`, or a function of
    b, h, m and n) and, where `causal`, m >= n keep. `last` counts only that many queries at the end, at their
    positions. Values are not needed; `v` may be given as to attention. Memory grows with M and N, not with their
    product. Raises CompileError in words for shapes, types or backends that do not fit.
    """
    wanted = Wanted(column_mass, column_square, entropy, block_max, block_scores, last)
    _check(q, k, v)
    group = q.shape[1] // k.shape[1] if k.shape[1] else 1
    scale = q.shape[3] ** -0.5 if scale is None else float(scale)
    rules = [*([causal_mask()] if causal else []), *([] if mask is None else [as_mask(mask).to(q.device)])]
    for rule in rules:
        rule.check_sizes(batch=q.shape[0], heads=q.shape[1], queries=q.shape[2], keys=k.shape[2])
    if mask is not None and not isinstance(mask, Mask):
        _check_reach(rules[-1], (*q.shape[:3], k.shape[2]))
    place = place_for(backend, [q, k])
    outputs, captures = _outputs(q.dtype, q.shape[3], group, scale, tuple(rules), place.backend)
    with torch.no_grad():
        return outputs(q.detach(), k.detach(), captures, wanted)


def as_mask(mask: Mask | MaskMod) -> Mask:
    """A function of b, h, m and n as a mask; the tensors that it finds by name, around it, are what it reads."""
    if isinstance(mask, Mask):
        return mask
    if not callable(mask):
        raise error(f"mask must be of attir.masks or a function of b, h, m and n, but is {mask!r}")
    held = [Held(t) for t in _tensors_around(mask).values()]
    return Mask(_called, (mask, *held), getattr(mask, "__name__", "mask"))


def _tensors_around(function: Any) -> dict[str, torch.Tensor]:
    if not isinstance(function, FunctionType):
        return {}
    found = getclosurevars(function)
    return {n: t for n, t in {**found.globals, **found.nonlocals}.items() if isinstance(t, torch.Tensor)}


def _called(at: Sequence[Any], function: Any, *tensors: torch.Tensor) -> Any:
    """The answer of a function that finds other tensors around it."""
    if not tensors:
        return function(*at)
    given = dict(zip(_tensors_around(function), tensors, strict=True))
    names = function.__code__.co_freevars
    own = zip(names, function.__closure__ or (), strict=True)
    cells = tuple(CellType(given[name]) if name in given else cell for name, cell in own)
    moved = FunctionType(
        function.__code__, {**function.__globals__, **given}, function.__name__, function.__defaults__, cells
    )
    return moved(*at)


def _check_reach(mask: Mask, sizes: Sequence[int]) -> None:
    """Fail where a function reads beyond its tensors at the last position, which a kernel would not notice."""
    last = [torch.tensor(max(0, size - 1)) for size in sizes]
    try:
        mask.to("cpu")(*last)
    except IndexError as problem:
        raise error(f"the mask {mask} cannot be read at {tuple(int(x) for x in last)}: {problem}") from problem


def observe(
    compiled: object,
    inputs: Sequence[Any] | Mapping[str, Any],
    *,
    column_mass: bool = True,
    column_square: bool = False,
    entropy: bool = False,
    block_max: tuple[int, int] | None = None,
    block_scores: bool = False,
    last: int | None = None,
) -> dict[str, Statistics]:
    """The statistics of every attention site of `compiled`, the result of `attir.compile`, in the order of calls.

    `compiled` is called on `inputs`, positional or by name, twice: what it captures is known only then. Each site's
    own scores, masks and rows count, and what `sparsity=` leaves out has no weight. A site that is called again is
    listed again, with the number of its call. Raises CompileError for what attir has not compiled, for sites whose
    sparsity calibration chooses, and where none was fused.
    """
    wanted = Wanted(column_mass, column_square, entropy, block_max, block_scores, last)
    backend = backend_of(compiled)
    if backend is None:
        raise error(f"cannot observe {compiled!r}: it is not the result of attir.compile")
    if backend.options.auto == "sparsity":
        raise error("what the sites leave out is chosen by calibration; compile with a mask or a selection to observe")
    call = cast("Callable[..., Any]", compiled)
    run = (lambda: call(**inputs)) if isinstance(inputs, Mapping) else (lambda: call(*inputs))
    run()
    if not backend.programs:
        raise error("no attention of the model was fused, so there is none to observe; see attir.explain")
    names: defaultdict[int, list[str]] = defaultdict(list)
    for name, program in backend.programs.items():
        names[program.number].append(name)
    found: dict[str, Statistics] = {}
    calls: Counter[int] = Counter()

    def see(site: int, tensors: Inputs) -> None:
        if site not in names:
            return
        again, position = divmod(calls[site], len(names[site]))
        calls[site] += 1
        name = names[site][position]
        program, (q, *_) = backend.programs[name], tensors
        place = place_for(backend.options.backend, [q])
        computed = _site(program.module, backend.options.sparsity, program.same_lengths, place.backend)
        found[f"{name} ({again + 1})" if again else name] = computed.statistics(tensors, wanted)

    with watched_calls(see), torch.no_grad():
        run()
    return found


@dataclass(frozen=True)
class _Site:
    """A site as it was compiled, but with statistics in the place of its kernel."""

    program: SiteProgram
    outputs: SideOutputs

    def statistics(self, tensors: Inputs, wanted: Wanted) -> Statistics:
        """Of a call of the site: what surrounds its attention is computed as ever."""
        found: list[Statistics] = []

        def compute(
            q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, captures: Sequence[torch.Tensor], want_lse: bool
        ) -> tuple[torch.Tensor, torch.Tensor]:
            found.append(self.outputs(q, k, captures, wanted))
            return v, found[0].lse

        ProgramRunner(self.program, compute)(*tensors, False)
        return found[0]


@lru_cache(maxsize=REMEMBERED)
def _site(module: Operation, sparsity: Any, same_lengths: bool, backend: str) -> _Site:
    program = prepare(module, sparsity, same_lengths=same_lengths).program
    return _Site(program, SideOutputs(program.kernel(), backend))


@lru_cache(maxsize=REMEMBERED)
def _outputs(
    dtype: torch.dtype, width: int, group: int, scale: float, rules: tuple[Mask, ...], backend: str
) -> tuple[SideOutputs, tuple[torch.Tensor, ...]]:
    """Plain attention under masks, and the tensors that these read."""
    module, captures = _plain(dtype, width, group, scale), list[torch.Tensor]()
    for rule in rules:
        try:
            module, tensors = restrict(module, rule)
        except CompileError:
            raise
        except Exception as problem:  # whatever tracing a function of the user's may raise
            raise error(f"the mask {rule} cannot be traced: {problem}") from problem
        captures += tensors
    return SideOutputs(module, backend), tuple(captures)


def _plain(dtype: torch.dtype, width: int, group: int, scale: float) -> Operation:
    """A program of attention with nothing special about it."""
    example = type_of_value(torch.empty(1, 1, 1, width, dtype=dtype, device="meta"))
    assert isinstance(example, TensorType)
    block = Block.with_arguments([example.with_shape(1, group, 1, width), example, example], ["q", "k", "v"])
    results = [block.arguments[0].type, TensorType((1, group, 1), f32)]
    properties = {"scale": FloatAttr(scale, f32), "group": IntegerAttr(group)}
    op = Builder(block).create(AttentionOp, block.arguments, results, properties, [Region(), Region()])
    return outline(op.operation, "attention")


def _check(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor | None) -> None:
    """Fail in words on tensors that are no queries and keys of one attention."""
    for name, tensor in (("q", q), ("k", k)):
        if tensor.dim() != 4:
            raise error(f"{name} must have four axes (batch, head, position, dimension), but has {tuple(tensor.shape)}")
    if q.dtype not in (torch.float16, torch.bfloat16, torch.float32) or k.dtype != q.dtype:
        raise error(f"q and k must both be float16, bfloat16 or float32, but are {q.dtype} and {k.dtype}")
    if q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3] or q.shape[3] == 0:
        raise error(
            f"q and k must agree in batch and in a head dimension, but have {tuple(q.shape)} and {tuple(k.shape)}"
        )
    if not k.shape[1] or q.shape[1] % k.shape[1]:
        raise error(f"the heads of q must be a multiple of those of k, but they have {q.shape[1]} and {k.shape[1]}")
    if v is not None and v.shape[:3] != k.shape[:3]:
        raise error(f"k and v must agree in batch, heads and length, but have {tuple(k.shape)} and {tuple(v.shape)}")
