"""What few bits save on this CPU: decoding over a long cache, products in int8, and every width."""

from __future__ import annotations

from collections.abc import Iterator

from attir.compiler.attention_cases import Case, Shape
from attir.compiler.schemes import scheme
from attir.ir.attributes import bf16, f32
from benchmarks.cpu.measuring import Call, interleaved
from benchmarks.grouped import Row, Settings

from .error_rows import cache_error
from .programs import Inputs, Program

KEYS = 32768
BARS = {"kv8": 1.5, "kv4": 2.2}
HEADS = ((32, 8), (8, 8))


def decode(settings: Settings) -> Iterator[Row]:
    """One query over a cache in few bits, against the same cache in bf16; the caches are there already."""
    for heads, key_heads in HEADS[:1] if settings.quick else HEADS:
        for width in (128, 64):
            for keys in settings.chosen((KEYS,), (KEYS,)):
                yield from _decode(settings, heads, key_heads, width, keys)


def _decode(settings: Settings, heads: int, key_heads: int, width: int, keys: int) -> Iterator[Row]:
    case = Case(dtype=bf16, width=width, group=heads // key_heads, lse=False)
    inputs = case.tensors(Shape(heads=heads, key_heads=key_heads, queries=1, keys=keys))[:3]
    calls: dict[str, Call] = {"bf16": Program.of(case, None).kernel_call(inputs)}
    calls |= {name: Program.of(case, scheme(name)).kernel_call(inputs) for name in (*BARS, "kv2")}
    times = interleaved(calls, 1, 3 * settings.seconds)
    for name in calls:
        if name == "bf16":
            continue
        ratio, bar = times.ratio(name, "bf16"), BARS.get(name)
        figures = {"x bf16": ratio, "ms": 1e3 * times.median(name), "bf16 ms": 1e3 * times.median("bf16")}
        what = f"decode {name}, KV {keys}, {heads} heads for {key_heads}, D {width}"
        seconds = {rival: times.seconds[rival] for rival in ("bf16", name)}
        yield Row(what, figures, f">= {bar} x" if bar else "", None if bar is None else ratio >= bar, times=seconds)


def prefill(settings: Settings) -> Iterator[Row]:
    """int8 products against f32, the cost of quantising q and k included, and beside it the kernel alone."""
    for length in settings.chosen((2048,), (1024, 2048, 4096)):
        for form in ("none", "causal"):
            case = Case(dtype=f32, width=128, form=form, lse=False)
            inputs = case.tensors(Shape(heads=4, key_heads=4, queries=length, keys=length))[:3]
            program = Program.of(case, scheme("int8"))
            calls = {
                "f32": Program.of(case, None).call(inputs),
                "int8": program.call(inputs),
                "kernel": program.kernel_call(inputs),
            }
            times = interleaved(calls, 1, 3 * settings.seconds)
            ratio = times.ratio("int8", "f32")
            figures = {"x f32": ratio, "kernel alone x": times.ratio("kernel", "f32")}
            what = f"prefill int8 q k, {form}, D 128, N {length}"
            yield Row(what, figures, "faster", ratio > 1, times=times.seconds)


def widths(settings: Settings) -> Iterator[Row]:
    """Every width on both backends: the error of each, and the speed of decoding where kernels run on this CPU."""
    case = Case(dtype=bf16, width=128, group=4, lse=False)
    inputs = _cache(case, 8192 if settings.quick else KEYS)
    calls: dict[str, Call] = {"bf16": Program.of(case, None).kernel_call(inputs)}
    calls |= {f"kv{bits}": Program.of(case, scheme(f"kv{bits}")).kernel_call(inputs) for bits in range(8, 0, -1)}
    times = interleaved(calls, 1, 5 * settings.seconds)
    for bits in range(8, 0, -1):
        native, triton = (cache_error(bits, bf16, 4, backend, keys=256) for backend in ("native", "interpret"))
        figures = {
            "x bf16": times.ratio(f"kv{bits}", "bf16"),
            "error": native.figures["error"],
            "of its storage": native.figures["of its storage in float64"],
            "error in Triton": triton.figures["error"],
        }
        yield Row(f"{bits} bits", figures, "both run, <= 1.2 x of the storage", native.held and triton.held)


def _cache(case: Case, keys: int) -> Inputs:
    return case.tensors(Shape(heads=32, key_heads=8, queries=1, keys=keys))[:3]
