"""`attir doctor`: what is installed, what works here, what is known to fail."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..ir.diagnostics import CompileError, error
from .host_cpu import host_name, host_target
from .native_support import native_problem
from .version import VERSION

PACKAGES = ("torch", "triton", "torch-mlir", "capstone", "numpy", "lark", "transformers")
OPTIONAL = ("torch-mlir", "transformers")


@dataclass(frozen=True)
class Finding:
    """One line of the report; a `bad` one means that attir's main job fails here."""

    mark: str
    what: str
    detail: str

    def __str__(self) -> str:
        return f"  {self.mark:<5} {self.what:<28} {self.detail}"


def run(argv: Sequence[str]) -> int:
    """Print the report; 1 where something needed is missing or broken, else 0."""
    parser = argparse.ArgumentParser(prog="attir doctor", description=__doc__)
    parser.add_argument(
        "--calibrate",
        action="store_true",
        help="measure how fast this CPU is, in some seconds, and keep that for the cost model",
    )
    if parser.parse_args(argv).calibrate:
        return _calibrate()
    findings = [*_packages(), *_works(), *_known_failures()]
    print(f"attir {VERSION}, Python {platform.python_version()} on {platform.system()} {platform.machine()}")
    for finding in findings:
        print(finding)
    broken = [f for f in findings if f.mark == "BAD"]
    print("everything needed works" if not broken else f"{len(broken)} thing(s) need attention")
    return 1 if broken else 0


def _calibrate() -> int:
    """Measure this CPU, print what was found and keep it; 1 where that cannot be done."""
    if problem := native_problem():
        raise error(f"no CPU to calibrate: {problem}")
    from .calibrate_cpu import calibrate, keep

    print(f"calibrating {host_target()} on {host_name()}: other work should rest meanwhile")
    calibration = calibrate()
    for name, text in calibration.lines():
        print(Finding("ok", name, text))
    where = keep(calibration)
    print(f"for predictions from now on: {where}")
    return 0


def _packages() -> list[Finding]:
    found: list[Finding] = []
    for name in PACKAGES:
        try:
            found.append(Finding("ok", name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            mark = "-" if name in OPTIONAL else "BAD"
            found.append(Finding(mark, name, "not installed"))
    return found


def _works() -> list[Finding]:
    checks: list[tuple[str, Callable[[], str]]] = [
        ("reads and writes IR", _check_text),
        ("Triton's interpreter", partial(_check_attention, "interpret")),
        ("offline compile for sm_90", _check_offline),
        ("GPU", _check_gpu),
        ("kernel cache", _check_cache),
        ("calibration", _check_calibration),
    ]
    return [_native(), *(_checked(what, check) for what, check in checks)]


def _native() -> Finding:
    """What the CPU is, and whether its native kernels work."""
    if problem := native_problem():
        return Finding("-", "native kernels", f"{problem} (this CPU: {host_name()})")
    checked = _checked("native kernels", partial(_check_attention, "native"))
    return Finding(checked.mark, checked.what, f"{host_target()} on {host_name()}: {checked.detail}")


def _checked(what: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding("ok", what, check())
    except CompileError as problem:
        return Finding("BAD", what, str(problem).splitlines()[0])
    except Exception as problem:  # a check reports whatever goes wrong in the library it tries
        return Finding("BAD", what, f"{type(problem).__name__}: {problem}".splitlines()[0])


def _check_text() -> str:
    from ..ir.parser import parse_module
    from ..ir.printer import print_operation

    text = print_operation(parse_module('%0 = "arith.constant"() <{value = 1.0 : f32}> : () -> f32\n'))
    return f"{len(text.splitlines())} lines round trip"


def _check_attention(backend: str) -> str:
    torch: Any = importlib.import_module("torch")
    from .api import compile as attir_compile

    def attention(q: Any, k: Any, v: Any) -> Any:
        return torch.softmax(q @ k.transpose(-1, -2) * 0.25, -1) @ v

    q, k, v = (torch.randn(1, 2, 24, 16) for _ in range(3))
    compiled = attir_compile(attention, backend=backend, strict=True, cache=False)
    with torch.no_grad():
        difference = (compiled(q, k, v) - attention(q, k, v)).abs().max().item()
    if difference > 1e-5:
        raise RuntimeError(f"a fused attention differs from eager by {difference:.1e}")
    return f"a fused attention agrees with eager to {difference:.1e}"


def _check_offline() -> str:
    from ..ir.parser import parse_module
    from .kernels import build_kernel
    from .offline import compile_offline

    kernel = build_kernel(parse_module(_SAMPLE), "sm_90")
    return compile_offline(kernel.triton, "sm_90").summary


def _check_gpu() -> str:
    torch: Any = importlib.import_module("torch")
    if not torch.cuda.is_available():
        return "none: kernels run on the CPU"
    major, minor = torch.cuda.get_device_capability()
    return f"{torch.cuda.get_device_name()} (sm_{major}{minor})"


def _check_cache() -> str:
    from .kernel_cache import cache_directory

    folder = cache_directory()
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / ".probe"
    probe.write_text("")
    probe.unlink()
    files = [p.stat().st_size for p in folder.rglob("*") if p.is_file()]
    return f"{folder}: {len(files)} files, {sum(files) / 1e6:.1f} MB"


def _check_calibration() -> str:
    if native_problem():
        return "none: there are no native kernels to predict"
    from .calibrate_cpu import calibrated_rates

    rates = calibrated_rates(host_target())
    if rates is None:
        return "none: rates of a usual CPU are taken; attir doctor --calibrate measures this one"
    return f"{1e-9 * rates.flops:.0f} GFLOP/s a core, {1e-9 * rates.levels[3].read:.1f} GB/s from memory"


def _known_failures() -> list[Finding]:
    found: list[Finding] = []
    versions = {f.what: f.detail for f in _packages() if f.mark == "ok"}
    triton, numpy = (tuple(int(p) for p in versions.get(n, "0.0").split(".")[:2]) for n in ("triton", "numpy"))
    if triton < (3, 7) and numpy >= (2, 4):
        found.append(Finding("BAD", "triton 3.6 with numpy 2.4", "its interpreter fails: pip install 'numpy<2.4'"))
    if "torchvision" in {d.name for d in importlib.metadata.distributions()}:
        found.append(Finding("note", "torchvision", "beside a CPU build of torch its wheel may fail to import"))
    found.append(Finding("note", "bf16 in Triton's interpreter", "wrong as shipped; attir mends its dot while it runs"))
    return found


_TENSOR = "tensor<?x?x?x64xf16, #attir.sym<B, H, {}>>"
_Q, _K = _TENSOR.format("M"), _TENSOR.replace("H", "K").format("N")
_LSE = "tensor<?x?x?xf32, #attir.sym<B, H, M>>"
_SAMPLE = f"""
"func.func"() <{{function_type = ({_Q}, {_K}, {_K}) -> {_Q}, sym_name = "sample"}}> ({{
^bb0(%q: {_Q}, %k: {_K}, %v: {_K}):
  %out, %lse = "attn.attention"(%q, %k, %v) <{{scale = 1.25e-01 : f32}}> ({{}}, {{}})
    : ({_Q}, {_K}, {_K}) -> ({_Q}, {_LSE})
  "func.return"(%out) : ({_Q}) -> ()
}}) : () -> ()
"""
