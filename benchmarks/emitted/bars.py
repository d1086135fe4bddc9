"""What generated kernels must hold when compiled, each as one row: the bar, what the machine code shows, yes or no.

tile      128x128 tiles of eight warps: instructions of a step over a whole tile, registers, spills
masks     what a mask or a score function adds to such a step, against its own arithmetic
devices   every head dimension on every device: tensor cores, copies in the background, no spill
special   eight-bit products, warps that only load, operands in few bits
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from attir.compiler.attention_cases import Case
from attir.compiler.sass import Loop
from attir.cost_model.devices import device_named
from attir.ir.attributes import FloatType, bf16, f16, f32
from attir.ir.diagnostics import CompileError
from benchmarks.emitted.arithmetic import loop_arithmetic
from benchmarks.emitted.compiled import Compiled, Pair, Wishes, bulk_loads, compiled, matrix_instructions
from benchmarks.emitted.stored import stored_rows
from benchmarks.emitted.table import Row

HOPPER, AMPERE, AMD = "sm_90", "sm_80", "gfx942"
TILE: Wishes = (("block_m", 128), ("block_n", 128), ("num_warps", 8), ("num_stages", 2))
LIMITS = {128: (500, 200), 64: (465, 170)}
"""Head dimension: instructions of a step over a whole tile, registers a thread."""

LIST_LIMIT = 1.06
OWN_LIMIT = 1.05
SAME = 0.02
"""The part by which two loops that do the same may differ: what registers are left around them is another matter."""

SPECIALISED: Wishes = (("specialised", 1), ("block_n", 128))
SPECIALISED_REGISTERS, SPECIALISED_LOOP = 168, 470
SHARED_MEMORY_LIMIT = 1024
WIDTHS = (64, 72, 80, 96, 128, 192, 256)
FORMS = ("none", "causal")
DTYPES = (f16, bf16)
SCORE_FORMS = ("alibi", "softcap")
f8 = FloatType("f8E4M3FN")


def rows(*, quick: bool = False) -> Iterator[Row]:
    """The whole table, or the part of it that takes less than a minute."""
    yield from tile_rows(quick=quick)
    yield from mask_rows(quick=quick)
    widths, dtypes, forms = ((64,), (f16,), ("causal",)) if quick else (WIDTHS, DTYPES, FORMS)
    for width in widths:
        yield hopper_row(width, dtypes, forms)
    for width in widths:
        yield ampere_row(width, dtypes, forms)
    if not quick:
        for width in widths:
            yield amd_row(width, dtypes, forms)
    yield from special_rows(quick=quick)
    yield from shared_memory_rows(quick=quick)


# --- tiles


def tile(dtype: FloatType, width: int, form: str = "none") -> Compiled:
    return compiled(Case(dtype, width, form=form, lse=False), HOPPER, 0, TILE)


def tile_rows(*, quick: bool) -> Iterator[Row]:
    """Instructions, registers and spills of the tile that everything else is compared with."""
    for width, (instructions, registers) in LIMITS.items():
        bar = f"full loop <= {instructions}, registers <= {registers}, no spill"
        for dtype in (f16,) if quick else DTYPES:
            for form in FORMS:
                kernel = tile(dtype, width, form)
                length, main = len(kernel.full.machine), kernel.main
                holds = length <= instructions and main.registers <= registers and main.spills == 0
                figure = f"{length} / {main.registers} / {main.spills}"
                yield Row(f"{HOPPER} {kernel.title}: instructions / registers / spills", bar, figure, holds)
        yield from _apart(width)


def _apart(width: int) -> Iterator[Row]:
    plain, causal = tile(f16, width), tile(f16, width, "causal")
    whole, cut = len(causal.full.machine), [len(pair.machine) for pair in causal.partial]
    dense = len(plain.full.machine)
    figure = f"{whole} without mask, dense {dense}; partial loop {', '.join(map(str, cut)) or 'none'}"
    holds = bool(cut) and abs(whole - dense) <= SAME * dense
    yield Row(f"{HOPPER} causal D={width}: partial loop apart, full loop as dense", f"within {SAME:.0%}", figure, holds)


# --- masks and scores


def mask_rows(*, quick: bool) -> Iterator[Row]:
    """What forms of attention add to a step of the plain kernel."""
    width = 128
    plain, listed = (len(tile(f16, width, form).full.machine) for form in ("none", "documents"))
    figure = f"{listed}, dense {plain}: {listed / plain - 1:+.1%}"
    yield Row(f"{HOPPER} D={width} block list: full loop", "<= dense + 6 %", figure, listed <= LIST_LIMIT * plain)
    for form in SCORE_FORMS[:1] if quick else SCORE_FORMS:
        yield _addition(f"{form} D={width}: full loop", tile(f16, width, form), tile(f16, width, form).full)
    if not quick:
        window = tile(f16, width, "window")
        yield _addition(f"window D={width}: full loop", window, window.full)
        for number, pair in enumerate(window.partial, 1):
            yield _addition(f"window D={width}: partial loop {number}", window, pair)


def _addition(what: str, kernel: Compiled, pair: Pair) -> Row:
    """One loop against the full loop of the plain kernel, and against the arithmetic it has on top of it."""
    warps = kernel.plan["num_warps"]
    plain = tile(f16, kernel.case.width).full
    own = loop_arithmetic(pair.written, warps) - loop_arithmetic(plain.written, warps)
    added = len(pair.machine) - len(plain.machine)
    figure = f"{added:+d} instructions, own arithmetic {own:.0f}"
    return Row(f"{HOPPER} {what} over plain", "<= own arithmetic + 5 %", figure, added <= OWN_LIMIT * own)


# --- devices


def standard(target: str, width: int, dtypes: Sequence[FloatType], forms: Sequence[str]) -> list[Compiled]:
    """One head dimension in every dtype and form, as the planner has it."""
    return [compiled(Case(dtype, width, form=form, lse=False), target) for dtype in dtypes for form in forms]


def hopper_row(width: int, dtypes: Sequence[FloatType], forms: Sequence[str]) -> Row:
    """HGMMA for both products, bulk copies for keys and values, no spill in any loop."""
    kernels = standard(HOPPER, width, dtypes, forms)
    pairs = [(kernel, pair) for kernel in kernels for pair in kernel.pairs]
    cores = all(_only(pair.machine, "HGMMA") == matrix_instructions(k, pair.written) for k, pair in pairs)
    copies = all(pair.machine.opcodes["UTMALDG"] >= bulk_loads(pair.written) >= 2 for _, pair in pairs)
    spills = _spills(kernels)
    kernel, first = pairs[0] if pairs else (kernels[0], None)
    figure = "loops not found"
    if first is not None:
        counts = first.machine.opcodes
        wanted = matrix_instructions(kernel, first.written)
        figure = f"{counts['HGMMA']} of {wanted} HGMMA, {counts['UTMALDG']} UTMALDG, {spills} LDL/STL"
    figure += f" in {len(pairs)} loops of {len(kernels)} kernels ({kernel.tile})"
    holds = bool(pairs) and all(k.pairs for k in kernels) and cores and copies and spills == 0
    return Row(f"{HOPPER} D={width}: HGMMA in both products, UTMALDG for k and v, no spill", "yes", figure, holds)


def ampere_row(width: int, dtypes: Sequence[FloatType], forms: Sequence[str]) -> Row:
    """HMMA for both products, cp.async in the loop and waited for with copies still under way, no spill."""
    kernels = standard(AMPERE, width, dtypes, forms)
    pairs = [(kernel, pair) for kernel in kernels for pair in kernel.pairs]
    cores = all(_only(pair.machine, "HMMA") >= matrix_instructions(k, pair.written) for k, pair in pairs)
    copies = all(pair.machine.opcodes["LDGSTS"] and pair.machine.opcodes["LDGDEPBAR"] for _, pair in pairs)
    spills = _spills(kernels)
    counts = pairs[0][1].machine.opcodes if pairs else {"HMMA": 0, "LDGSTS": 0}
    figure = (
        f"{counts['HMMA']} HMMA, {counts['LDGSTS']} LDGSTS, {spills} LDL/STL in {len(pairs)} loops of "
        f"{len(kernels)} kernels ({kernels[0].tile})"
    )
    holds = bool(pairs) and all(k.pairs for k in kernels) and cores and copies and spills == 0
    return Row(f"{AMPERE} D={width}: HMMA, cp.async pipelined, no spill in a loop", "yes", figure, holds)


def amd_row(width: int, dtypes: Sequence[FloatType], forms: Sequence[str]) -> Row:
    """No vector register spilled anywhere."""
    kernels = standard(AMD, width, dtypes, forms)
    spills = [kernel.main.spills for kernel in kernels]
    registers = max(kernel.main.registers for kernel in kernels)
    figure = f"{max(spills)} spills, at most {registers} registers, {len(kernels)} kernels ({kernels[0].tile})"
    return Row(f"{AMD} D={width}: no VGPR spill", "0", figure, max(spills) == 0)


def _only(loop: Loop, opcode: str) -> int:
    """How many matrix instructions there are; 0 where some are of another kind."""
    return loop.opcodes[opcode] if loop.opcodes[opcode] == loop.matrix_instructions else 0


def _spills(kernels: Sequence[Compiled]) -> int:
    return max(kernel.loop_spills for k in kernels for kernel in k.machine)


# --- special kernels


def special_rows(*, quick: bool) -> Iterator[Row]:
    """Products of eight bits, and kernels with warps that only load."""
    yield eight_bit_row()
    for width in (128,) if quick else (128, 64):
        yield specialised_row(width)
    yield from stored_rows(quick=quick)


def eight_bit_row() -> Row:
    what = f"{HOPPER} fp8 D=128, V transposed: QGMMA, no store to shared memory in the loop"
    try:
        kernel = compiled(Case(f8, 128, lse=False), HOPPER)
    except CompileError as refused:
        return Row(what, "yes", str(refused).splitlines()[0], holds=False)
    loops = kernel.machine_loops
    products = min((_only(loop, "QGMMA") for loop in loops), default=0)
    stores = sum(loop.opcodes["STS"] + loop.opcodes["STSM"] for loop in loops)
    figure = f"{products} QGMMA, {stores} STS, loops of {', '.join(str(len(loop)) for loop in loops)} ({kernel.tile})"
    return Row(what, "yes", figure, products > 0 and stores == 0)


def specialised_row(width: int) -> Row:
    bar = f"1 region, {SPECIALISED_REGISTERS} registers, no spill, consumer loop <= {SPECIALISED_LOOP}"
    what = f"{HOPPER} D={width} specialised warps: regions / registers / spills / consumer loops"
    try:
        kernel = compiled(Case(f16, width, lse=False), HOPPER, 0, SPECIALISED)
    except CompileError as refused:
        return Row(what, bar, str(refused).splitlines()[0], holds=False)
    main = kernel.main
    regions = str(main.emit("ttgir")).count("ttg.warp_specialize(")
    lengths = [len(loop) for loop in kernel.machine_loops]
    figure = f"{regions} / {main.registers} / {main.spills} / {', '.join(map(str, lengths))} ({kernel.tile})"
    fits = regions == 1 and main.registers == SPECIALISED_REGISTERS and main.spills == 0
    return Row(what, bar, figure, fits and bool(lengths) and max(lengths) <= SPECIALISED_LOOP)


# --- shared memory


def memory_cases(*, quick: bool) -> list[tuple[Case, int, Wishes]]:
    """Problems, rows and wishes of which each device gets a kernel: every form, exact dots, decode."""
    forms = ("bias",) if quick else ("none", "causal", "window", "alibi", "softcap", "bias", "table", "documents")
    found: list[tuple[Case, int, Wishes]] = [(Case(f16, 128, form=form, lse=False), 0, ()) for form in forms]
    widths = (64,) if quick else (16, 64, 80, 128, 256)
    found += [(Case(f32, width, lse=False), 0, ()) for width in widths]
    found += [(Case(bf16, width, group=8, lse=False), 8, ()) for width in widths]
    if not quick:
        found += [(Case(bf16, 128, group=group, lse=False), rows, ()) for group, rows in ((1, 16), (8, 64))]
        found += [(Case(f16, 128, group=8, form=form, lse=False), 8, ()) for form in ("documents", "dropped", "bias")]
        found += [(Case(f16, 128, value_width=64, lse=False), 0, (("num_stages", stages),)) for stages in (2, 3)]
    return found


HOPPER_ONLY: tuple[tuple[Case, int, Wishes], ...] = (
    (Case(f16, 128, lse=False), 0, (("descriptors", ""),)),
    (Case(f16, 128, lse=False), 0, (("descriptors", "host"),)),
    (Case(f8, 128, lse=False), 0, ()),
    (Case(f16, 128, form="causal", lse=False), 0, (("persistent", 132),)),
    (Case(bf16, 128, group=8, lse=False), 8, (("swap", 1), ("block_n", 64))),
    (Case(f16, 64, form="causal", lse=False), 0, SPECIALISED),
)
TOO_LARGE: Wishes = (("block_m", 128), ("block_n", 128), ("num_warps", 8), ("num_stages", 4))


def shared_memory_rows(*, quick: bool) -> Iterator[Row]:
    """Predicted and actual bytes, and what is said of a kernel that would not fit."""
    for target in (HOPPER, AMPERE):
        cases = [*memory_cases(quick=quick), *(HOPPER_ONLY if target == HOPPER and not quick else ())]
        if not quick:
            cases += [
                (Case(dtype, w, form=form, lse=False), 0, ()) for w in WIDTHS for dtype in DTYPES for form in FORMS
            ]
        yield memory_row(target, cases)
    yield refused_row()


def memory_row(target: str, cases: Sequence[tuple[Case, int, Wishes]]) -> Row:
    kernels = [compiled(case, target, rows, wishes) for case, rows, wishes in dict.fromkeys(cases)]
    distances = {kernel: abs(kernel.shared - (kernel.predicted or 0)) for kernel in kernels}
    worst = max(distances, key=lambda kernel: distances[kernel])
    exact = sum(distance <= SHARED_MEMORY_LIMIT for distance in distances.values())
    figure = f"{exact} of {len(kernels)}; furthest {distances[worst]} B ({worst.title}: {worst.shared} B)"
    what = f"{target}: shared memory as predicted before compiling"
    return Row(what, f"within {SHARED_MEMORY_LIMIT} B", figure, exact == len(kernels))


def refused_row() -> Row:
    """Four stages of 128x128 tiles need more than any device has."""
    what = f"{HOPPER} D=128, 128x128 tiles in 4 stages: refused before compiling"
    limit = device_named(HOPPER).shared_memory
    try:
        kernel = compiled(Case(f16, 128, lse=False), HOPPER, 0, TOO_LARGE)
    except CompileError as refused:
        text = str(refused).splitlines()[0]
        said = text[text.rfind(", even in tiles of") + 2 :]
        return Row(what, "names both sizes", said, f"of {limit}" in text)
    return Row(what, "names both sizes", f"compiled, with {kernel.shared} B", holds=False)
