"""Fused attention kernel `attention`. Written by attir."""

import triton
import triton.language as tl


@triton.jit
def attention(
    q_ptr, k_ptr, v_ptr, capture0_ptr, out_ptr,
    stride_q_b, stride_q_h, stride_q_m, stride_q_d, stride_k_b, stride_k_h, stride_k_n, stride_k_d,
    stride_v_b, stride_v_h, stride_v_n, stride_v_d, stride_capture0_0, stride_out_b, stride_out_h,
    stride_out_m, stride_out_d,
    H, M, N,
):
    range_64 = tl.arange(0, 64)
    range_16 = tl.arange(0, 16)
    pid = tl.program_id(0)
    query_tiles = (M + 63) // 64
    bh = pid // query_tiles
    tile = pid % query_tiles
    b = bh // H
    h = bh % H
    kh = h // 4
    start_m = tile * 64
    offs_m = start_m + range_64
    q_head = q_ptr + tl.cast(b, tl.int64) * stride_q_b + tl.cast(h, tl.int64) * stride_q_h
    q_offsets = range_64[:, None] * stride_q_m + range_64[None, :] * stride_q_d
    q_offsets_2 = range_64[:, None] * stride_q_m + range_16[None, :] * stride_q_d
    k_head = k_ptr + tl.cast(b, tl.int64) * stride_k_b + tl.cast(kh, tl.int64) * stride_k_h
    k_offsets = range_64[:, None] * stride_k_n + range_64[None, :] * stride_k_d
    k_offsets_2 = range_64[:, None] * stride_k_n + range_16[None, :] * stride_k_d
    v_head = v_ptr + tl.cast(b, tl.int64) * stride_v_b + tl.cast(kh, tl.int64) * stride_v_h
    v_offsets = range_64[:, None] * stride_v_n + range_64[None, :] * stride_v_d
    v_offsets_2 = range_64[:, None] * stride_v_n + range_16[None, :] * stride_v_d
    q_tile = tl.load(
        q_head + tl.cast(start_m, tl.int64) * stride_q_m + q_offsets,
        mask=start_m + range_64[:, None] < M,
        other=0.0,
    )
    q_tile_2 = tl.load(
        q_head
        + tl.cast(start_m, tl.int64) * stride_q_m
        + tl.cast(64, tl.int64) * stride_q_d
        + q_offsets_2,
        mask=start_m + range_64[:, None] < M,
        other=0.0,
    )
    capture0_value = tl.load(capture0_ptr + tl.cast(h, tl.int64) * stride_capture0_0)
    full_end = N // 64 * 64
    acc = tl.full([64, 64], 0.0, tl.float32)
    acc_2 = tl.full([64, 16], 0.0, tl.float32)
    row_max = tl.full([64], float("-inf"), tl.float32)
    row_sum = tl.full([64], 0.0, tl.float32)
    # key tiles that are kept whole
    for start_n in range(0, full_end, 64):
        k_tile = tl.load(k_head + tl.cast(start_n, tl.int64) * stride_k_n + k_offsets)
        k_tile_2 = tl.load(
            k_head
            + tl.cast(start_n, tl.int64) * stride_k_n
            + tl.cast(64, tl.int64) * stride_k_d
            + k_offsets_2
        )
        k_t = tl.trans(k_tile)
        scores = tl.dot(q_tile, k_t, input_precision="ieee", out_dtype=tl.float32)
        k_t_2 = tl.trans(k_tile_2)
        scores = tl.dot(q_tile_2, k_t_2, scores, input_precision="ieee", out_dtype=tl.float32)
        scores = scores * 0.1118034
        offs_n = start_n + range_64
        x = (offs_n[None, :] - offs_m[:, None]).to(tl.float32)
        scores = scores + capture0_value * x
        raw_max = tl.max(scores, 1)
        tile_max = raw_max * 1.442695
        new_max = tl.maximum(row_max, tile_max, propagate_nan=tl.PropagateNan.ALL)
        no_key_yet = new_max == float("-inf")
        safe_max = tl.where(no_key_yet, 0.0, new_max)
        alpha = tl.exp2(row_max - safe_max)
        p = tl.exp2(scores * 1.442695 - safe_max[:, None])
        tile_sum = tl.sum(p, 1)
        row_sum = row_sum * alpha + tile_sum
        acc = acc * alpha[:, None]
        acc_2 = acc_2 * alpha[:, None]
        v_tile = tl.load(v_head + tl.cast(start_n, tl.int64) * stride_v_n + v_offsets)
        v_tile_2 = tl.load(
            v_head
            + tl.cast(start_n, tl.int64) * stride_v_n
            + tl.cast(64, tl.int64) * stride_v_d
            + v_offsets_2
        )
        p_cast = p.to(tl.bfloat16)
        acc = tl.dot(p_cast, v_tile, acc, input_precision="ieee", out_dtype=tl.float32)
        acc_2 = tl.dot(p_cast, v_tile_2, acc_2, input_precision="ieee", out_dtype=tl.float32)
        row_max = new_max
    # key tiles that the mask or the end of the keys cuts
    for start_n in range(full_end, N, 64):
        k_tile = tl.load(
            k_head + tl.cast(start_n, tl.int64) * stride_k_n + k_offsets,
            mask=start_n + range_64[:, None] < N,
            other=0.0,
        )
        k_tile_2 = tl.load(
            k_head
            + tl.cast(start_n, tl.int64) * stride_k_n
            + tl.cast(64, tl.int64) * stride_k_d
            + k_offsets_2,
            mask=start_n + range_64[:, None] < N,
            other=0.0,
        )
        k_t = tl.trans(k_tile)
        scores = tl.dot(q_tile, k_t, input_precision="ieee", out_dtype=tl.float32)
        k_t_2 = tl.trans(k_tile_2)
        scores = tl.dot(q_tile_2, k_t_2, scores, input_precision="ieee", out_dtype=tl.float32)
        scores = scores * 0.1118034
        offs_n = start_n + range_64
        key_valid = offs_n < N
        x = (offs_n[None, :] - offs_m[:, None]).to(tl.float32)
        scores = tl.where(key_valid[None, :], scores + capture0_value * x, float("-inf"))
        raw_max = tl.max(scores, 1)
        tile_max = raw_max * 1.442695
        new_max = tl.maximum(row_max, tile_max, propagate_nan=tl.PropagateNan.ALL)
        no_key_yet = new_max == float("-inf")
        safe_max = tl.where(no_key_yet, 0.0, new_max)
        alpha = tl.exp2(row_max - safe_max)
        p = tl.exp2(scores * 1.442695 - safe_max[:, None])
        tile_sum = tl.sum(p, 1)
        row_sum = row_sum * alpha + tile_sum
        acc = acc * alpha[:, None]
        acc_2 = acc_2 * alpha[:, None]
        v_tile = tl.load(
            v_head + tl.cast(start_n, tl.int64) * stride_v_n + v_offsets,
            mask=start_n + range_64[:, None] < N,
            other=0.0,
        )
        v_tile_2 = tl.load(
            v_head
            + tl.cast(start_n, tl.int64) * stride_v_n
            + tl.cast(64, tl.int64) * stride_v_d
            + v_offsets_2,
            mask=start_n + range_64[:, None] < N,
            other=0.0,
        )
        p_cast = p.to(tl.bfloat16)
        acc = tl.dot(p_cast, v_tile, acc, input_precision="ieee", out_dtype=tl.float32)
        acc_2 = tl.dot(p_cast, v_tile_2, acc_2, input_precision="ieee", out_dtype=tl.float32)
        row_max = new_max
    no_key = row_sum == 0.0
    row_sum = tl.where(no_key, 1.0, row_sum)
    out_head = out_ptr + tl.cast(b, tl.int64) * stride_out_b + tl.cast(h, tl.int64) * stride_out_h
    out_offsets = range_64[:, None] * stride_out_m + range_64[None, :] * stride_out_d
    out_offsets_2 = range_64[:, None] * stride_out_m + range_16[None, :] * stride_out_d
    out_tile = acc / row_sum[:, None]
    out_tile = out_tile.to(tl.bfloat16)
    tl.store(
        out_head + tl.cast(start_m, tl.int64) * stride_out_m + out_offsets,
        out_tile,
        mask=start_m + range_64[:, None] < M,
    )
    out_tile = acc_2 / row_sum[:, None]
    out_tile = out_tile.to(tl.bfloat16)
    tl.store(
        out_head
        + tl.cast(start_m, tl.int64) * stride_out_m
        + tl.cast(64, tl.int64) * stride_out_d
        + out_offsets_2,
        out_tile,
        mask=start_m + range_64[:, None] < M,
    )


def launch(q, k, v, capture0, out, num_warps=4, num_stages=3):
    """Start the kernel.

    q (B, H, M, 80), k (B, K, N, 80), v (B, K, N, 80), capture0 (c0_0), out (B, H, M, 80)
    """
    H = q.shape[1]
    M = q.shape[2]
    N = k.shape[2]
    B = q.shape[0]
    grid = ((M + 63) // 64 * (B * H),)
    attention[grid](
        q, k, v, capture0, out,
        q.stride(0), q.stride(1), q.stride(2), q.stride(3), k.stride(0), k.stride(1), k.stride(2),
        k.stride(3), v.stride(0), v.stride(1), v.stride(2), v.stride(3), capture0.stride(0),
        out.stride(0), out.stride(1), out.stride(2), out.stride(3),
        H, M, N,
        num_warps=num_warps, num_stages=num_stages, enable_fp_fusion=True,
    )
