"""`attir tune`: measures kernels of each attention of a target on this machine, and keeps what is best.

    attir tune hf:gemma2 --shapes 1x8x4x1024x1024,1x8x4x1x4096 --autotune top8
    attir tune --collect ...      times of many kernels, for training
    attir tune --train ...        train the cost model on them

Later runs on this machine find the plans in the tuning cache, and measure nothing.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ..cost_model.cpus import CPUS
from ..cost_model.problem import Sizes
from ..ir.core import Operation
from ..ir.diagnostics import CompileError, error
from .compile_command import DEVICES, Capture, argument_parser
from .tuning import SECONDS, Tuning

if TYPE_CHECKING:
    import torch

    from .custom_op import Runner
    from .native_runtime import NativeRunner
    from .options import Options
    from .sites import CompiledSite
    from .triton_runtime import TritonRunner

OTHERS: Mapping[str, str] = {"--collect": "collect_command", "--train": "train_command"}
"""What else `attir tune` does, by the option that asks for it, and the module whose `run` it is."""


def run(argv: Sequence[str]) -> int:
    """`attir tune` of the command line."""
    for option, module in OTHERS.items():
        if option in argv:
            return importlib.import_module(f".{module}", __package__).run([a for a in argv if a != option])
    parser = argument_parser("attir tune", __doc__)
    add = parser.add_argument
    add("--shapes", default="", metavar="SIZES,...", help="BATCHxHEADSxKEY_HEADSxQUERIESxKEYS (those of the inputs)")
    add("--autotune", default="top3", metavar="HOW", help="how many candidates to measure: top3, top8, full")
    add("--seconds", type=float, default=SECONDS, metavar="S", help="time for each site and shape (%(default)s)")
    add("--target", choices=DEVICES, help="the device that is tuned for; it must be here (this CPU, or this GPU)")
    add("--json", action="store_true", help="print what was found as JSON")
    arguments = parser.parse_args(argv)
    tuning = Tuning.parse(arguments.autotune, arguments.seconds)
    if not tuning.wanted or tuning.background:
        raise error(f"autotune '{arguments.autotune}' measures nothing now; expected topK, such as top3, or full")
    shapes = [Sizes.parse(text) for text in filter(None, arguments.shapes.split(","))]
    check_target(arguments.target)
    # What is captured must not be measured on the way.
    arguments.autotune = "off"
    recorder = Recorder()
    print(f"capturing {arguments.subject}", file=sys.stderr)
    backend, _, _ = Capture(arguments, executes=True, compile_site=recorder.compile_site).run()
    names = {id(site): name for name, site in reversed(backend.compiled.items())}
    found = [
        tuned
        for seen in recorder.seen
        for sizes in (shapes or [None])
        for tuned in [_tuned(names.get(id(seen.site), "attention"), seen, sizes, tuning)]
    ]
    for site in backend.report.refused:
        found.append({"site": site.name, "problem": f"not fused: {site.reason}"})
    if not found:
        raise error(f"there is nothing to tune: no attention of '{arguments.subject}' was called")
    print(json.dumps(found, indent=2) if arguments.json else "\n".join(map(_in_words, found)))
    return 1 if any("problem" in one for one in found) else 0


def check_target(target: str | None) -> None:
    """Fail where nothing can be measured: without the device, or without anything that makes code for it."""
    from .host_cpu import host_target
    from .native_support import native_problem

    if target is not None and target not in CPUS:
        from .kernels import current_gpu

        if (here := _or_problem(current_gpu)) != target:
            raise error(f"cannot measure kernels for {target} here: {here}; expected that device")
        return
    if problem := native_problem():
        raise error(f"cannot measure native kernels here: {problem}")
    if target is not None and target != (here := host_target()):
        raise error(f"cannot measure kernels for {target} here: those of this CPU are for {here}")


def _or_problem(ask: Callable[[], str]) -> str:
    try:
        return f"{ask()}"
    except CompileError as problem:
        return problem.diagnostics[0].message


@dataclass
class Seen:
    """A kernel's site, what it computes, for which backend, and the tensors of its first call."""

    module: Operation
    options: Options
    site: CompiledSite
    tensors: tuple[torch.Tensor, ...] = ()


@dataclass
class Recorder:
    """Compiles sites as ever, and remembers those that are called and what on."""

    every: list[Seen] = field(default_factory=list[Seen])

    @property
    def seen(self) -> list[Seen]:
        """Those that were called."""
        return [seen for seen in self.every if seen.tensors]

    def compile_site(self, module: Operation, options: Options, call: Sizes | int | None = None) -> CompiledSite:
        from .kernels import Site, compile_site

        if options.backend == "interpret":
            raise error("Triton's interpreter is for correctness only: there is nothing to measure")
        site = compile_site(module, options, call)
        assert isinstance(site, Site)
        seen = Seen(module, options, site)
        seen.site = replace(site, runner=_Recording(seen, site.runner))
        self.every.append(seen)
        return seen.site


class _Recording:
    """A runner that remembers what it was called on first."""

    def __init__(self, seen: Seen, runner: Runner) -> None:
        self.seen, self.runner = seen, runner

    def __call__(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, captures: Sequence[torch.Tensor], want_lse: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.seen.tensors:
            self.seen.tensors = (q, k, v, *captures)
        return self.runner(q, k, v, captures, want_lse)

    def with_positions_first(self) -> _Recording:
        """The same with out in memory as (B, M, H, E)."""
        inner: Any = self.runner
        return _Recording(self.seen, inner.with_positions_first())


def _tuned(name: str, seen: Seen, sizes: Sizes | None, tuning: Tuning) -> dict[str, Any]:
    """What came of tuning one site for one shape."""
    entry: dict[str, Any] = {"site": name, "sizes": str(sizes or sizes_of_call(seen.tensors))}
    try:
        q, k, v, *captures = seen.tensors if sizes is None else tensors_like(seen.tensors, sizes)
        runner = _runner(seen, tuning)
        runner(q, k, v, captures, False)
    except CompileError as problem:
        return {**entry, "problem": problem.diagnostics[0].message}
    variant = runner.kernels.variants[-1]
    plan = {key: value for key, value in variant.plan.items() if key not in ("decision", "mask", "reason")}
    return {**entry, "calls": variant.calls, "schedule": plan, **dict(variant.plan.get("decision", {}))}


def _runner(seen: Seen, tuning: Tuning) -> NativeRunner | TritonRunner:
    """What runs a site with kernels of its own, so that nothing was decided before but what the cache keeps."""
    if seen.options.backend == "native":
        from .host_cpu import host_target
        from .native_kernels import NativeKernels
        from .native_runtime import NativeRunner

        return NativeRunner(NativeKernels(seen.module.clone(), host_target(), tuning=tuning))
    from .kernels import current_gpu
    from .triton_kernels import TritonKernels
    from .triton_runtime import OnGpu, TritonRunner, machine

    kernels = TritonKernels(seen.module.clone(), current_gpu(), seen.options.wishes, tuning=tuning)
    return TritonRunner(kernels, OnGpu(machine()))


def sizes_of_call(tensors: Sequence[torch.Tensor]) -> Sizes:
    """The sizes of a call on q, k, v and captures."""
    q, k = tensors[0].shape, tensors[1].shape
    return Sizes(q[0], q[1], k[1], q[2], k[2])


def tensors_like(tensors: Sequence[torch.Tensor], sizes: Sizes) -> tuple[torch.Tensor, ...]:
    """Tensors for a call of other sizes: random q, k and v; captured ones repeat what they hold.

    Raises CompileError where a captured tensor cannot be made larger or smaller: where it is not clear which of its
    axes is which, or where it holds integers, which may be places in other tensors.
    """
    import torch

    before = sizes_of_call(tensors)
    q, k, v, *captures = tensors
    if sizes.group != before.group or sizes.heads % sizes.key_heads:
        raise error(
            f"sizes {sizes} have {sizes.heads} heads for {sizes.key_heads} key heads, but this attention has "
            f"{before.group} for each key head"
        )
    if not q.dtype.is_floating_point or not k.dtype.is_floating_point or k.shape[:3] != v.shape[:3]:
        raise error("keys and values in few bits have sizes of their own; tune with inputs of the wanted sizes")
    generator = torch.Generator().manual_seed(0)

    def like(tensor: torch.Tensor, heads: int, length: int) -> torch.Tensor:
        # Memory is laid out as the model's: positions first, or heads first.
        shape = (sizes.batch, heads, length, tensor.shape[3])
        swapped = tensor.shape[1] > 1 and tensor.stride(1) < tensor.stride(2)
        memory = (shape[0], shape[2], shape[1], shape[3]) if swapped else shape
        made = torch.randn(memory, generator=generator).to(tensor.dtype).to(tensor.device)
        return made.transpose(1, 2) if swapped else made

    found = (
        like(q, sizes.heads, sizes.queries),
        like(k, sizes.key_heads, sizes.keys),
        like(v, sizes.key_heads, sizes.keys),
    )
    return (*found, *(_capture_like(c, before, sizes) for c in captures))


def _capture_like(capture: torch.Tensor, before: Sizes, sizes: Sizes) -> torch.Tensor:
    """A captured tensor for a call of other sizes."""
    import torch

    old, new = (dict(vars(s)) for s in (before, sizes))
    wanted: list[int] = []
    for extent in capture.shape:
        meant = {new[name] for name, size in old.items() if size == extent and extent != 1}
        if len(meant) > 1 or (not meant and extent != 1):
            raise error(
                f"a captured tensor of shape {tuple(capture.shape)} has an axis of {extent}, which does not say what "
                f"it becomes for sizes {sizes}; tune with inputs of the wanted sizes"
            )
        wanted.append(meant.pop() if meant else 1)
    if tuple(wanted) == tuple(capture.shape):
        return capture
    if not (capture.dtype.is_floating_point or capture.dtype == torch.bool):
        raise error(
            f"a captured tensor of {capture.dtype} may hold places in other tensors, so that it cannot be made for "
            f"sizes {sizes}; tune with inputs of the wanted sizes"
        )
    repeated = capture.repeat([-(-size // extent) for size, extent in zip(wanted, capture.shape, strict=True)])
    return repeated[tuple(slice(size) for size in wanted)].contiguous()


def _in_words(found: Mapping[str, Any]) -> str:
    """One site and shape for people."""
    head = f"{found['site']}  {found.get('sizes', '')}"
    if "problem" in found:
        return f"{head}\n    problem   {found['problem']}"
    plan = ", ".join(f"{name}={value}" for name, value in found["schedule"].items() if value not in (0, ""))
    lines = [("kernel", plan), ("decision", f"{found.get('source', 'model')} for {found['calls']}")]
    if "predicted_us" in found:
        lines.append(("predicted", f"{found['predicted_us']} us"))
    if "measured_us" in found:
        lines.append(("measured", f"{found['measured_us']} us"))
    for place in range(1, 3):
        if (name := f"runner_up_{place}") in found:
            measured = found.get(f"{name}_measured_us")
            beside = "" if measured is None else f", {measured} us measured"
            lines.append(("next" if place == 1 else "", f"{found[name]}: {found[f'{name}_us']} us predicted{beside}"))
    lines.append(("note", found.get("note", "")))
    return "\n".join([head, *(f"    {label:<10}{text}" for label, text in lines if text)])
