"""The fixed part of a warp-specialised kernel: who copies, who computes, and how they wait for each other.

One warp copies tiles of keys and values into rings in shared memory; two groups of four warps each
compute half the rows of a program. They issue their products in turns, so that one group's products run
while the other is at its exponentials (FlashAttention-3, arXiv 2407.08608, section 3.1); inside a group the product
with keys is issued before that of the tile before with values is waited for (section 3.2).

Every barrier has a phase of one bit, which flips each time that as many as were announced have arrived. Slot
`i % STAGES` of a ring is filled for the (i // STAGES)-th time for tile i: readers wait for that phase of `full`, and
the writer for the phase before it of `free`, which a new barrier counts as over.
"""

from __future__ import annotations

HEADER = '''"""Fused attention kernel `{name}`{origin}, warps that copy beside warps that compute. Written by attir."""

import triton.language
from triton.experimental import gluon
from triton.experimental.gluon import language as tl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma
from triton.experimental.gluon.language.nvidia.hopper import warpgroup_mma, warpgroup_mma_wait
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

# Triton 3.6 has another name for this than those after it.
async_load = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared

PROPAGATE_NAN = tl.constexpr(triton.language.PropagateNan.ALL)
ELEMENT = tl.constexpr({element})
HALF, KEYS, WIDTH = tl.constexpr({half}), tl.constexpr({keys}), tl.constexpr({width})
STAGES = tl.constexpr({stages})
QUERY_BYTES, KEY_BYTES = tl.constexpr({query_bytes}), tl.constexpr({key_bytes})

# Layouts: of tiles in shared memory, then over the threads of a group of warps.
COPIED = tl.NVMMASharedLayout(128, 16, 4)
SHARED = tl.constexpr(COPIED)
SUMS = tl.constexpr(tl.SwizzledSharedLayout(1, 1, 1, [0]))
BARRIER = tl.constexpr(mbarrier.MBarrierLayout())
SCORES = tl.constexpr(tl.NVMMADistributedLayout([3, 0], [4, 1], [16, {keys}, 16]))
ROWS, COLUMNS = tl.constexpr(tl.SliceLayout(1, SCORES)), tl.constexpr(tl.SliceLayout(0, SCORES))
OUTPUT = tl.constexpr(tl.NVMMADistributedLayout([3, 0], [4, 1], [16, {width}, 16]))
OUTPUT_ROWS = tl.constexpr(tl.SliceLayout(1, OUTPUT))
WEIGHTS = tl.constexpr(tl.DotOperandLayout(0, OUTPUT, 2))
STORED = tl.constexpr(tl.BlockedLayout([1, 8], [{store_rows}, {store_columns}], [4, 1], [1, 0]))
STORED_ROWS, STORED_COLUMNS = tl.constexpr(tl.SliceLayout(1, STORED)), tl.constexpr(tl.SliceLayout(0, STORED))


'''

STEP = '''@gluon.jit
def score(q, k_ring, stage):
    """Issue the product of queries and the keys in a slot."""
    keys = k_ring.index(stage).reshape([KEYS, WIDTH])
    nothing = tl.zeros([HALF, KEYS], tl.float32, SCORES)
    return warpgroup_mma(q, keys.permute((1, 0)), nothing, use_acc=False, is_async=True)


@gluon.jit
def weigh(p, acc, v_ring, stage):
    """Issue the product of weights and the values in a slot."""
    return warpgroup_mma(p, v_ring.index(stage).reshape([KEYS, WIDTH]), acc, is_async=True)


@gluon.jit
def step(
    which: tl.constexpr, cut: tl.constexpr, i, tiles, q, p, acc, row_max, row_sum,
    k_ring, v_ring, k_full, k_free, v_full, v_free, turn, sums,
{step_parameters}):
    """Tile i: its scores, while the values of the tile before it are added up with the weights p."""
    stage, before = i % STAGES, (i - 1) % STAGES
    mbarrier.wait(k_full.index(stage), (i // STAGES) & 1)
    # The other group of warps has issued its products, and is at its exponentials.
    mbarrier.wait(turn.index(which), (i + which) & 1)
    scores = score(q, k_ring, stage)
    mbarrier.wait(v_full.index(before), ((i - 1) // STAGES) & 1)
    acc = weigh(p, acc, v_ring, before)
    mbarrier.arrive(turn.index(1 - which), count=1)
    scores = warpgroup_mma_wait(1, deps=[scores])
    mbarrier.arrive(k_free.index(stage), count=1)
    start_n = (tiles - 1 - i) * KEYS
    if cut:
        p, alpha, row_max, row_sum = softmax_of_cut(scores, row_max, row_sum{cut_arguments})
    else:
        p, alpha, row_max, row_sum = softmax_of_whole(scores, row_max, row_sum{whole_arguments})
    # Nobody reads this. It keeps the wait below the exponentials: ptxas moves none across such a store.
    sums.index(which).store(row_sum)
    acc = warpgroup_mma_wait(0, deps=[acc])
    mbarrier.arrive(v_free.index(before), count=1)
    acc = acc * tl.convert_layout(alpha, OUTPUT_ROWS)[:, None]
    return tl.convert_layout(p, WEIGHTS), acc, row_max, row_sum


'''

CONSUME = '''@gluon.jit
def consume(
    which: tl.constexpr, q_tiles, k_ring, v_ring, q_full, k_full, k_free, v_full, v_free, turn, sums, tiles, whole,
{consume_parameters}):
    """Half the rows of a program, over its key tiles from the last to the first: the whole ones come last."""
    rows = which * HALF + tl.arange(0, HALF, ROWS)
{vectors}    row_max = tl.full([HALF], float("-inf"), tl.float32, ROWS)
    row_sum = tl.full([HALF], 0.0, tl.float32, ROWS)
    acc = tl.zeros([HALF, WIDTH], tl.float32, OUTPUT)
    if tiles > 0:
        q = q_tiles.index(which).reshape([HALF, WIDTH])
        mbarrier.wait(q_full.index(which), 0)
        mbarrier.wait(k_full.index(0), 0)
        scores = warpgroup_mma_wait(0, deps=[score(q, k_ring, 0)])
        mbarrier.arrive(k_free.index(0), count=1)
        # The mask of a cut tile holds everywhere in a whole one.
        start_n = (tiles - 1) * KEYS
        p, alpha, row_max, row_sum = softmax_of_cut(scores, row_max, row_sum{cut_arguments})
        p = tl.convert_layout(p, WEIGHTS)
        for i in range(1, tiles - whole):
            p, acc, row_max, row_sum = step(
                which, True, i, tiles, q, p, acc, row_max, row_sum,
                k_ring, v_ring, k_full, k_free, v_full, v_free, turn, sums,
{step_arguments}            )
        for i in range(tl.maximum(tiles - whole, 1), tiles):
            p, acc, row_max, row_sum = step(
                which, False, i, tiles, q, p, acc, row_max, row_sum,
                k_ring, v_ring, k_full, k_free, v_full, v_free, turn, sums,
{step_arguments}            )
        last = (tiles - 1) % STAGES
        mbarrier.wait(v_full.index(last), ((tiles - 1) // STAGES) & 1)
        acc = warpgroup_mma_wait(0, deps=[weigh(p, acc, v_ring, last)])
    stored_rows = which * HALF + tl.arange(0, HALF, STORED_ROWS)
    stored_columns = tl.arange(0, WIDTH, STORED_COLUMNS)
{epilogue}

'''

PRODUCE = '''@gluon.jit
def copy(desc, b, h, ring, full, free, i, tiles):
    """Copy tile i of keys or values as soon as its slot is free."""
    stage = i % STAGES
    mbarrier.wait(free.index(stage), ((i // STAGES) & 1) ^ 1)
    mbarrier.expect(full.index(stage), KEY_BYTES)
    async_load(desc, [b, h, (tiles - 1 - i) * KEYS, 0], full.index(stage), ring.index(stage))


@gluon.jit
def produce(
    q_desc, k_desc, v_desc, q_tiles, k_ring, v_ring, q_full, k_full, k_free, v_full, v_free, tiles,
{produce_parameters}):
    """Copy the queries of both groups of warps, then keys and values in the order in which they are read."""
    if tiles > 0:
        for which in tl.static_range(2):
            mbarrier.expect(q_full.index(which), QUERY_BYTES)
            async_load(q_desc, [{q_head}, {start} + which * HALF, 0], q_full.index(which), q_tiles.index(which))
        copy(k_desc, {k_head}, k_ring, k_full, k_free, 0, tiles)
        for i in range(1, tiles):
            copy(k_desc, {k_head}, k_ring, k_full, k_free, i, tiles)
            copy(v_desc, {v_head}, v_ring, v_full, v_free, i - 1, tiles)
        copy(v_desc, {v_head}, v_ring, v_full, v_free, tiles - 1, tiles)


'''

KERNEL = """@gluon.jit(do_not_specialize=[{sizes}])
def {name}(
{parameters}
):
{scalars}    tiles = ({end} + (KEYS - 1)) // KEYS
    whole = tl.maximum({full_end} // KEYS, 0)
    q_tiles = tl.allocate_shared_memory(ELEMENT, [2, 1, 1, HALF, WIDTH], SHARED)
    k_ring = tl.allocate_shared_memory(ELEMENT, [STAGES, 1, 1, KEYS, WIDTH], SHARED)
    v_ring = tl.allocate_shared_memory(ELEMENT, [STAGES, 1, 1, KEYS, WIDTH], SHARED)
    q_full = tl.allocate_shared_memory(tl.int64, [2, 1], BARRIER)
    turn = tl.allocate_shared_memory(tl.int64, [2, 1], BARRIER)
    sums = tl.allocate_shared_memory(tl.float32, [2, HALF], SUMS)
    k_full = tl.allocate_shared_memory(tl.int64, [STAGES, 1], BARRIER)
    k_free = tl.allocate_shared_memory(tl.int64, [STAGES, 1], BARRIER)
    v_full = tl.allocate_shared_memory(tl.int64, [STAGES, 1], BARRIER)
    v_free = tl.allocate_shared_memory(tl.int64, [STAGES, 1], BARRIER)
    for i in tl.static_range(2):
        mbarrier.init(q_full.index(i), count=1)
        mbarrier.init(turn.index(i), count=1)
    for i in tl.static_range(STAGES):
        mbarrier.init(k_full.index(i), count=1)
        mbarrier.init(v_full.index(i), count=1)
        # Both groups of warps must be done with a slot.
        mbarrier.init(k_free.index(i), count=2)
        mbarrier.init(v_free.index(i), count=2)
    fence_async_shared()
    tl.warp_specialize(
        [
            (consume, (
                0, q_tiles, k_ring, v_ring, q_full, k_full, k_free, v_full, v_free, turn, sums, tiles, whole,
{consume_arguments}            )),
            (consume, (
                1, q_tiles, k_ring, v_ring, q_full, k_full, k_free, v_full, v_free, turn, sums, tiles, whole,
{consume_arguments}            )),
            (produce, (
                q_desc, k_desc, v_desc, q_tiles, k_ring, v_ring, q_full, k_full, k_free, v_full, v_free, tiles,
{produce_arguments}            )),
        ],
        [4, 1],
        [{consumer_registers}, {producer_registers}],
    )


"""

NAMES = frozenset({
    "COPIED", "TensorDescriptor", "acc", "alpha", "async_load", "before", "columns", "consume", "copy", "cut",
    "fence_async_shared", "free", "gluon", "i", "k_desc", "k_free", "k_full", "k_ring", "keys", "last", "mbarrier",
    "nothing", "p", "produce", "q", "q_desc", "q_full", "q_tiles", "row_max", "row_sum", "rows", "score", "scores",
    "softmax_of_cut", "softmax_of_whole", "stage", "start_n", "step", "stored_columns", "stored_rows", "sums",
    "tiles", "tma", "turn", "v_desc", "v_free", "v_full", "v_ring", "warpgroup_mma", "warpgroup_mma_wait", "weigh",
    "which", "whole",
})  # fmt: skip
"""What the frame calls things; no variable of a tile program may have such a name."""
