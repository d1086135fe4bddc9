"""Fused attention kernel `attention`. Written by attir."""

import triton
import triton.language as tl


@triton.jit
def attention(
    q_ptr, k_ptr, v_ptr, capture0_ptr, spans_ptr, tiles_ptr, order_ptr, out_ptr, lse_ptr,
    stride_q_b, stride_q_h, stride_q_m, stride_q_d, stride_k_b, stride_k_h, stride_k_n, stride_v_b,
    stride_v_h, stride_v_n, stride_capture0_0, stride_capture0_1, stride_spans_0, stride_spans_2,
    stride_spans_3, stride_tiles_0, stride_order_0, stride_out_b, stride_out_h, stride_out_m,
    stride_out_d, stride_lse_b, stride_lse_h, stride_lse_m,
    H, M, N, L,
):
    range_64 = tl.arange(0, 64)
    range_128 = tl.arange(0, 128)
    pid = tl.program_id(0)
    query_tiles = (M + 63) // 64
    number = tl.load(order_ptr + tl.cast(pid, tl.int64) * stride_order_0)
    number = tl.cast(number, tl.int32)
    bh = number // query_tiles
    tile = number % query_tiles
    b = bh // H
    h = bh % H
    start_m = tile * 64
    offs_m = start_m + range_64
    row_valid = offs_m < M
    q_head = q_ptr + tl.cast(b, tl.int64) * stride_q_b + tl.cast(h, tl.int64) * stride_q_h
    q_offsets = range_64[:, None] * stride_q_m + range_64[None, :] * stride_q_d
    k_head = k_ptr + tl.cast(b, tl.int64) * stride_k_b + tl.cast(h, tl.int64) * stride_k_h
    k_desc = tl.make_tensor_descriptor(k_head, [N, 64], [stride_k_n, 1], [128, 64])
    v_head = v_ptr + tl.cast(b, tl.int64) * stride_v_b + tl.cast(h, tl.int64) * stride_v_h
    v_desc = tl.make_tensor_descriptor(v_head, [N, 64], [stride_v_n, 1], [128, 64])
    q_tile = tl.load(
        q_head + tl.cast(start_m, tl.int64) * stride_q_m + q_offsets,
        mask=start_m + range_64[:, None] < M,
        other=0.0,
    )
    capture0_value = tl.load(
        capture0_ptr
        + tl.cast(b, tl.int64) * stride_capture0_0
        + tl.cast(offs_m, tl.int64) * stride_capture0_1,
        mask=row_valid,
        other=0,
    )
    row_tile = start_m // 64
    full_begin = tl.load(
        spans_ptr
        + tl.cast(b, tl.int64) * stride_spans_0
        + tl.cast(row_tile, tl.int64) * stride_spans_2
    )
    full_end = tl.load(
        spans_ptr
        + tl.cast(b, tl.int64) * stride_spans_0
        + tl.cast(row_tile, tl.int64) * stride_spans_2
        + tl.cast(1, tl.int64) * stride_spans_3
    )
    cut_begin = tl.load(
        spans_ptr
        + tl.cast(b, tl.int64) * stride_spans_0
        + tl.cast(row_tile, tl.int64) * stride_spans_2
        + tl.cast(2, tl.int64) * stride_spans_3
    )
    cut_end = tl.load(
        spans_ptr
        + tl.cast(b, tl.int64) * stride_spans_0
        + tl.cast(row_tile, tl.int64) * stride_spans_2
        + tl.cast(3, tl.int64) * stride_spans_3
    )
    x = L - 1
    place = tl.minimum(full_begin, x)
    key_tile = tl.load(tiles_ptr + tl.cast(place, tl.int64) * stride_tiles_0)
    acc = tl.full([64, 64], 0.0, tl.float32)
    row_max = tl.full([64], float("-inf"), tl.float32)
    row_sum = tl.full([64], 0.0, tl.float32)
    # listed key tiles that are kept whole
    for visited in range(full_begin, full_end):
        start_n = key_tile * 128
        place_2 = tl.minimum(visited + 1, x)
        next_tile = tl.load(tiles_ptr + tl.cast(place_2, tl.int64) * stride_tiles_0)
        k_tile = k_desc.load([start_n, 0])
        v_tile = v_desc.load([start_n, 0])
        k_t = tl.trans(k_tile)
        scores = tl.dot(q_tile, k_t, input_precision="ieee", out_dtype=tl.float32)
        raw_max = tl.max(scores, 1)
        tile_max = raw_max * 0.18033688
        new_max = tl.maximum(row_max, tile_max, propagate_nan=tl.PropagateNan.ALL)
        alpha = tl.exp2(row_max - new_max)
        p = tl.exp2(scores * 0.18033688 - new_max[:, None])
        tile_sum = tl.sum(p, 1)
        row_sum = row_sum * alpha + tile_sum
        acc = acc * alpha[:, None]
        p_cast = p.to(tl.float16)
        acc = tl.dot(p_cast, v_tile, acc, input_precision="ieee", out_dtype=tl.float32)
        key_tile = next_tile
        row_max = new_max
    place = tl.minimum(cut_begin, x)
    key_tile = tl.load(tiles_ptr + tl.cast(place, tl.int64) * stride_tiles_0)
    # listed key tiles that the mask or the end of the keys cuts
    for visited in range(cut_begin, cut_end):
        start_n = key_tile * 128
        place_2 = tl.minimum(visited + 1, x)
        next_tile = tl.load(tiles_ptr + tl.cast(place_2, tl.int64) * stride_tiles_0)
        k_tile = k_desc.load([start_n, 0])
        v_tile = v_desc.load([start_n, 0])
        k_t = tl.trans(k_tile)
        scores = tl.dot(q_tile, k_t, input_precision="ieee", out_dtype=tl.float32)
        offs_n = start_n + range_128
        key_valid = offs_n < N
        capture0_value_2 = tl.load(
            capture0_ptr
            + tl.cast(b, tl.int64) * stride_capture0_0
            + tl.cast(offs_n, tl.int64) * stride_capture0_1,
            mask=key_valid,
            other=0,
        )
        condition = capture0_value[:, None] == capture0_value_2[None, :]
        mask = key_valid[None, :] & condition
        scores = tl.where(mask, scores, float("-inf"))
        raw_max = tl.max(scores, 1)
        tile_max = raw_max * 0.18033688
        new_max = tl.maximum(row_max, tile_max, propagate_nan=tl.PropagateNan.ALL)
        no_key_yet = new_max == float("-inf")
        safe_max = tl.where(no_key_yet, 0.0, new_max)
        alpha = tl.exp2(row_max - safe_max)
        p = tl.exp2(scores * 0.18033688 - safe_max[:, None])
        tile_sum = tl.sum(p, 1)
        row_sum = row_sum * alpha + tile_sum
        acc = acc * alpha[:, None]
        p_cast = p.to(tl.float16)
        acc = tl.dot(p_cast, v_tile, acc, input_precision="ieee", out_dtype=tl.float32)
        key_tile = next_tile
        row_max = new_max
    no_key = row_sum == 0.0
    row_sum = tl.where(no_key, 1.0, row_sum)
    out_head = out_ptr + tl.cast(b, tl.int64) * stride_out_b + tl.cast(h, tl.int64) * stride_out_h
    out_offsets = range_64[:, None] * stride_out_m + range_64[None, :] * stride_out_d
    out_tile = acc / row_sum[:, None]
    out_tile = out_tile.to(tl.float16)
    tl.store(
        out_head + tl.cast(start_m, tl.int64) * stride_out_m + out_offsets,
        out_tile,
        mask=start_m + range_64[:, None] < M,
    )
    lse_head = lse_ptr + tl.cast(b, tl.int64) * stride_lse_b + tl.cast(h, tl.int64) * stride_lse_h
    lse_offsets = range_64 * stride_lse_m
    lse_tile = (row_max + tl.log2(row_sum)) * 0.6931472
    tl.store(
        lse_head + tl.cast(start_m, tl.int64) * stride_lse_m + lse_offsets,
        lse_tile,
        mask=start_m + range_64 < M,
    )


def launch(q, k, v, capture0, spans, tiles, order, out, lse, num_warps=4, num_stages=2):
    """Start the kernel.

    q (B, H, M, 64), k (B, H, N, 64), v (B, H, N, 64), capture0 (c0_0, c0_1), spans (LB, 1, LM,
    4), tiles (L), order (LO), out (B, H, M, 64), lse (B, H, M)
    """
    H = q.shape[1]
    M = q.shape[2]
    N = k.shape[2]
    L = tiles.shape[0]
    B = q.shape[0]
    grid = ((M + 63) // 64 * (B * H),)
    attention[grid](
        q, k, v, capture0, spans, tiles, order, out, lse,
        q.stride(0), q.stride(1), q.stride(2), q.stride(3), k.stride(0), k.stride(1), k.stride(2),
        v.stride(0), v.stride(1), v.stride(2), capture0.stride(0), capture0.stride(1),
        spans.stride(0), spans.stride(2), spans.stride(3), tiles.stride(0), order.stride(0),
        out.stride(0), out.stride(1), out.stride(2), out.stride(3), lse.stride(0), lse.stride(1),
        lse.stride(2),
        H, M, N, L,
        num_warps=num_warps, num_stages=num_stages, enable_fp_fusion=True,
    )


"""Fused attention kernel `attention_list`. Written by attir."""

import triton
import triton.language as tl


@triton.jit
def attention_list(
    q_ptr, k_ptr, capture0_ptr, extremes_ptr, spans_ptr, tiles_ptr, work_ptr,
    stride_extremes_0, stride_extremes_1, stride_extremes_3, stride_spans_0, stride_spans_1,
    stride_spans_2, stride_spans_3, stride_tiles_0, stride_work_0, stride_work_1, stride_work_2,
    N, LM,
):
    range_1 = tl.arange(0, 1)
    tiles_offsets = range_1 * stride_tiles_0
    pid = tl.program_id(0)
    bh = pid // LM
    row_tile = pid % LM
    start_m = row_tile * 64
    row_tile_2 = start_m // 64
    key_tiles = (N + 127) // 128
    x = key_tiles + 1
    front = pid * x
    back = front + x
    least = tl.load(
        extremes_ptr
        + tl.cast(2, tl.int64) * stride_extremes_0
        + tl.cast(bh, tl.int64) * stride_extremes_1
        + tl.cast(row_tile_2, tl.int64) * stride_extremes_3
    )
    largest = tl.load(
        extremes_ptr
        + tl.cast(3, tl.int64) * stride_extremes_0
        + tl.cast(bh, tl.int64) * stride_extremes_1
        + tl.cast(row_tile_2, tl.int64) * stride_extremes_3
    )
    condition = (least >= -268435455) & (largest <= 268435455)
    x_2 = key_tiles - 1
    full_end = front
    cut_begin = back
    # key tiles of which the mask may keep some
    for i in range(0, key_tiles, 4):
        visited = i * 128
        key_tile = visited // 128
        least_2 = tl.load(
            extremes_ptr
            + tl.cast(bh, tl.int64) * stride_extremes_1
            + tl.cast(key_tile, tl.int64) * stride_extremes_3
        )
        largest_2 = tl.load(
            extremes_ptr
            + tl.cast(1, tl.int64) * stride_extremes_0
            + tl.cast(bh, tl.int64) * stride_extremes_1
            + tl.cast(key_tile, tl.int64) * stride_extremes_3
        )
        condition_2 = (least_2 >= -268435455) & (largest_2 <= 268435455)
        condition_2 = condition & condition_2
        live = (least <= largest_2) & (least_2 <= largest) | ~condition_2
        condition_2 = (largest <= least_2) & (largest_2 <= least) & condition_2
        full = condition_2 & (visited + 128 <= N)
        x_3 = i + 2
        condition_3 = x_3 <= key_tiles
        visited = tl.minimum(i + 1, x_2) * 128
        key_tile_2 = visited // 128
        least_3 = tl.load(
            extremes_ptr
            + tl.cast(bh, tl.int64) * stride_extremes_1
            + tl.cast(key_tile_2, tl.int64) * stride_extremes_3
        )
        largest_3 = tl.load(
            extremes_ptr
            + tl.cast(1, tl.int64) * stride_extremes_0
            + tl.cast(bh, tl.int64) * stride_extremes_1
            + tl.cast(key_tile_2, tl.int64) * stride_extremes_3
        )
        condition_4 = (least_3 >= -268435455) & (largest_3 <= 268435455)
        condition_4 = condition & condition_4
        live_2 = (least <= largest_3) & (least_3 <= largest) | ~condition_4
        condition_4 = (largest <= least_3) & (largest_3 <= least) & condition_4
        full_2 = condition_4 & (visited + 128 <= N)
        full_2 = condition_3 & full_2
        x_4 = i + 3
        condition_5 = x_4 <= key_tiles
        visited = tl.minimum(x_3, x_2) * 128
        key_tile_3 = visited // 128
        least_4 = tl.load(
            extremes_ptr
            + tl.cast(bh, tl.int64) * stride_extremes_1
            + tl.cast(key_tile_3, tl.int64) * stride_extremes_3
        )
        largest_4 = tl.load(
            extremes_ptr
            + tl.cast(1, tl.int64) * stride_extremes_0
            + tl.cast(bh, tl.int64) * stride_extremes_1
            + tl.cast(key_tile_3, tl.int64) * stride_extremes_3
        )
        condition_6 = (least_4 >= -268435455) & (largest_4 <= 268435455)
        condition_6 = condition & condition_6
        live_3 = (least <= largest_4) & (least_4 <= largest) | ~condition_6
        condition_6 = (largest <= least_4) & (largest_4 <= least) & condition_6
        full_3 = condition_6 & (visited + 128 <= N)
        full_3 = condition_5 & full_3
        condition_7 = i + 4 <= key_tiles
        visited = tl.minimum(x_4, x_2) * 128
        key_tile_4 = visited // 128
        least_5 = tl.load(
            extremes_ptr
            + tl.cast(bh, tl.int64) * stride_extremes_1
            + tl.cast(key_tile_4, tl.int64) * stride_extremes_3
        )
        largest_5 = tl.load(
            extremes_ptr
            + tl.cast(1, tl.int64) * stride_extremes_0
            + tl.cast(bh, tl.int64) * stride_extremes_1
            + tl.cast(key_tile_4, tl.int64) * stride_extremes_3
        )
        condition_8 = (least_5 >= -268435455) & (largest_5 <= 268435455)
        condition_8 = condition & condition_8
        live_4 = (least <= largest_5) & (least_5 <= largest) | ~condition_8
        condition_8 = (largest <= least_5) & (largest_5 <= least) & condition_8
        full_4 = condition_8 & (visited + 128 <= N)
        full_4 = condition_7 & full_4
        live = live & ~full
        cut_begin = cut_begin - tl.cast(tl.where(live, 1, 0), tl.int32)
        tl.store(
            tiles_ptr
            + tl.cast(tl.where(live, cut_begin, full_end), tl.int64) * stride_tiles_0
            + tiles_offsets,
            tl.full([1], key_tile, tl.int32),
        )
        full_end = full_end + tl.cast(tl.where(full, 1, 0), tl.int32)
        condition_9 = condition_3 & live_2 & ~full_2
        cut_begin = cut_begin - tl.cast(tl.where(condition_9, 1, 0), tl.int32)
        tl.store(
            tiles_ptr
            + tl.cast(tl.where(condition_9, cut_begin, full_end), tl.int64) * stride_tiles_0
            + tiles_offsets,
            tl.full([1], key_tile_2, tl.int32),
        )
        full_end = full_end + tl.cast(tl.where(full_2, 1, 0), tl.int32)
        condition_10 = condition_5 & live_3 & ~full_3
        cut_begin = cut_begin - tl.cast(tl.where(condition_10, 1, 0), tl.int32)
        tl.store(
            tiles_ptr
            + tl.cast(tl.where(condition_10, cut_begin, full_end), tl.int64) * stride_tiles_0
            + tiles_offsets,
            tl.full([1], key_tile_3, tl.int32),
        )
        full_end = full_end + tl.cast(tl.where(full_3, 1, 0), tl.int32)
        condition_11 = condition_7 & live_4 & ~full_4
        cut_begin = cut_begin - tl.cast(tl.where(condition_11, 1, 0), tl.int32)
        tl.store(
            tiles_ptr
            + tl.cast(tl.where(condition_11, cut_begin, full_end), tl.int64) * stride_tiles_0
            + tiles_offsets,
            tl.full([1], key_tile_4, tl.int32),
        )
        full_end = full_end + tl.cast(tl.where(full_4, 1, 0), tl.int32)
    row = (
        spans_ptr
        + tl.cast(bh, tl.int64) * stride_spans_0
        + tl.cast(row_tile, tl.int64) * stride_spans_2
    )
    spans_offsets = range_1 * stride_spans_3
    tl.store(row + spans_offsets, tl.full([1], front, tl.int32))
    tl.store(
        row + tl.cast(1, tl.int64) * stride_spans_3 + spans_offsets,
        tl.full([1], full_end, tl.int32),
    )
    tl.store(
        row + tl.cast(2, tl.int64) * stride_spans_3 + spans_offsets,
        tl.full([1], cut_begin, tl.int32),
    )
    tl.store(
        row + tl.cast(3, tl.int64) * stride_spans_3 + spans_offsets, tl.full([1], back, tl.int32)
    )
    x_3 = (full_end - front) * 128 + (back - cut_begin) * 128
    listed = x_3 * 16
    part = listed // tl.maximum(N, 1)
    work_head = work_ptr + tl.cast(bh, tl.int64) * stride_work_0
    work_offsets = range_1 * stride_work_2
    tl.store(
        work_head + tl.cast(row_tile, tl.int64) * stride_work_2 + work_offsets,
        tl.full([1], part, tl.int32),
    )


def launch(q, k, capture0, extremes, spans, tiles, work, num_warps=1, num_stages=1):
    """Start the kernel.

    q (B, H, M, 64), k (B, H, N, 64), capture0 (c0_0, c0_1), extremes (4, TB, 1, T), spans (LB,
    1, LM, 4), tiles (L), work (LB, 1, LM)
    """
    N = k.shape[2]
    LM = spans.shape[2]
    LB = spans.shape[0]
    grid = (LM * LB,)
    attention_list[grid](
        q, k, capture0, extremes, spans, tiles, work,
        extremes.stride(0), extremes.stride(1), extremes.stride(3), spans.stride(0),
        spans.stride(1), spans.stride(2), spans.stride(3), tiles.stride(0), work.stride(0),
        work.stride(1), work.stride(2),
        N, LM,
        num_warps=num_warps, num_stages=num_stages, enable_fp_fusion=True,
    )


"""Fused attention kernel `attention_tables`. Written by attir."""

import triton
import triton.language as tl


@triton.jit
def attention_tables(
    q_ptr, k_ptr, capture0_ptr, extremes_ptr,
    stride_capture0_0, stride_capture0_1, stride_extremes_0, stride_extremes_1, stride_extremes_2,
    stride_extremes_3,
    M, N, T,
):
    range_128 = tl.arange(0, 128)
    pid = tl.program_id(0)
    runs = (T + 127) // 128
    run = pid % runs
    bh = pid // runs
    first_tile = run * 128
    tiles = first_tile + range_128
    x = tiles * 128
    reached = run * 16384
    steps = tl.cast(tl.where(reached < N, 128, 0), tl.int32)
    least = tl.full([128], 268435456, tl.int32)
    largest = tl.full([128], -268435456, tl.int32)
    for i in range(0, steps):
        position = x + i
        exists = position < N
        capture0_value = tl.load(
            capture0_ptr
            + tl.cast(bh, tl.int64) * stride_capture0_0
            + tl.cast(position, tl.int64) * stride_capture0_1,
            mask=exists,
            other=0,
        )
        least = tl.where(exists, tl.minimum(least, capture0_value), least)
        largest = tl.where(exists, tl.maximum(largest, capture0_value), largest)
    least_2 = extremes_ptr + tl.cast(bh, tl.int64) * stride_extremes_1
    extremes_offsets = range_128 * stride_extremes_3
    tl.store(
        least_2 + tl.cast(first_tile, tl.int64) * stride_extremes_3 + extremes_offsets,
        least,
        mask=first_tile + range_128 < T,
    )
    largest_2 = (
        extremes_ptr
        + tl.cast(1, tl.int64) * stride_extremes_0
        + tl.cast(bh, tl.int64) * stride_extremes_1
    )
    extremes_offsets_2 = range_128 * stride_extremes_3
    tl.store(
        largest_2 + tl.cast(first_tile, tl.int64) * stride_extremes_3 + extremes_offsets_2,
        largest,
        mask=first_tile + range_128 < T,
    )
    tiles = tiles * 64
    reached = run * 8192
    steps = tl.cast(tl.where(reached < M, 64, 0), tl.int32)
    least_3 = tl.full([128], 268435456, tl.int32)
    largest_3 = tl.full([128], -268435456, tl.int32)
    for i in range(0, steps):
        position = tiles + i
        exists = position < M
        capture0_value = tl.load(
            capture0_ptr
            + tl.cast(bh, tl.int64) * stride_capture0_0
            + tl.cast(position, tl.int64) * stride_capture0_1,
            mask=exists,
            other=0,
        )
        least_3 = tl.where(exists, tl.minimum(least_3, capture0_value), least_3)
        largest_3 = tl.where(exists, tl.maximum(largest_3, capture0_value), largest_3)
    least = (
        extremes_ptr
        + tl.cast(2, tl.int64) * stride_extremes_0
        + tl.cast(bh, tl.int64) * stride_extremes_1
    )
    extremes_offsets_3 = range_128 * stride_extremes_3
    tl.store(
        least + tl.cast(first_tile, tl.int64) * stride_extremes_3 + extremes_offsets_3,
        least_3,
        mask=first_tile + range_128 < T,
    )
    largest = (
        extremes_ptr
        + tl.cast(3, tl.int64) * stride_extremes_0
        + tl.cast(bh, tl.int64) * stride_extremes_1
    )
    extremes_offsets_4 = range_128 * stride_extremes_3
    tl.store(
        largest + tl.cast(first_tile, tl.int64) * stride_extremes_3 + extremes_offsets_4,
        largest_3,
        mask=first_tile + range_128 < T,
    )


def launch(q, k, capture0, extremes, num_warps=4, num_stages=2):
    """Start the kernel.

    q (B, H, M, 64), k (B, H, N, 64), capture0 (c0_0, c0_1), extremes (4, TB, 1, T)
    """
    M = q.shape[2]
    N = k.shape[2]
    T = extremes.shape[3]
    TB = extremes.shape[1]
    grid = ((T + 127) // 128 * TB,)
    attention_tables[grid](
        q, k, capture0, extremes,
        capture0.stride(0), capture0.stride(1), extremes.stride(0), extremes.stride(1),
        extremes.stride(2), extremes.stride(3),
        M, N, T,
        num_warps=num_warps, num_stages=num_stages, enable_fp_fusion=True,
    )
