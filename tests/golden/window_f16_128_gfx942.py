"""Fused attention kernel `attention`. Written by attir."""

import triton
import triton.language as tl


@triton.jit
def attention(
    q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr,
    stride_q_b, stride_q_h, stride_q_m, stride_q_d, stride_k_b, stride_k_h, stride_k_n, stride_k_d,
    stride_v_b, stride_v_h, stride_v_n, stride_v_d, stride_out_b, stride_out_h, stride_out_m,
    stride_out_d, stride_lse_b, stride_lse_h, stride_lse_m,
    H, M, N,
):
    range_128 = tl.arange(0, 128)
    range_16 = tl.arange(0, 16)
    pid = tl.program_id(0)
    query_tiles = (M + 127) // 128
    bh = pid // query_tiles
    tile = pid % query_tiles
    b = bh // H
    h = bh % H
    start_m = tile * 128
    offs_m = start_m + range_128
    q_head = q_ptr + tl.cast(b, tl.int64) * stride_q_b + tl.cast(h, tl.int64) * stride_q_h
    q_offsets = range_128[:, None] * stride_q_m + range_128[None, :] * stride_q_d
    k_head = k_ptr + tl.cast(b, tl.int64) * stride_k_b + tl.cast(h, tl.int64) * stride_k_h
    k_offsets = range_16[:, None] * stride_k_n + range_128[None, :] * stride_k_d
    v_head = v_ptr + tl.cast(b, tl.int64) * stride_v_b + tl.cast(h, tl.int64) * stride_v_h
    v_offsets = range_16[:, None] * stride_v_n + range_128[None, :] * stride_v_d
    q_tile = tl.load(
        q_head + tl.cast(start_m, tl.int64) * stride_q_m + q_offsets,
        mask=start_m + range_128[:, None] < M,
        other=0.0,
    )
    row_end = tl.minimum(start_m + 128, M)
    end = tl.minimum(N, row_end)
    begin = tl.maximum(start_m - 39, 0) // 16 * 16
    full_begin = (tl.maximum(row_end - 40, 0) + 15) // 16 * 16
    full_end = tl.maximum(full_begin, tl.minimum(N, start_m + 1) // 16 * 16)
    end_key = tl.minimum(offs_m + 1, N)
    left_end = tl.minimum(full_begin, end)
    first_key = offs_m - 39
    acc = tl.full([128, 128], 0.0, tl.float32)
    row_max = tl.full([128], float("-inf"), tl.float32)
    row_sum = tl.full([128], 0.0, tl.float32)
    # key tiles that the mask or the end of the keys cuts
    for start_n in range(begin, left_end, 16):
        k_tile = tl.load(
            k_head + tl.cast(start_n, tl.int64) * stride_k_n + k_offsets,
            mask=start_n + range_16[:, None] < N,
            other=0.0,
        )
        k_t = tl.trans(k_tile)
        scores = tl.dot(q_tile, k_t, input_precision="ieee", out_dtype=tl.float32)
        condition = range_16[None, :] >= (first_key - start_n)[:, None]
        mask = (range_16[None, :] < (end_key - start_n)[:, None]) & condition
        scores = tl.where(mask, scores, float("-inf"))
        raw_max = tl.max(scores, 1)
        tile_max = raw_max * 0.12751743
        new_max = tl.maximum(row_max, tile_max, propagate_nan=tl.PropagateNan.ALL)
        no_key_yet = new_max == float("-inf")
        safe_max = tl.where(no_key_yet, 0.0, new_max)
        alpha = tl.exp2(row_max - safe_max)
        p = tl.exp2(scores * 0.12751743 - safe_max[:, None])
        tile_sum = tl.sum(p, 1)
        row_sum = row_sum * alpha + tile_sum
        acc = acc * alpha[:, None]
        v_tile = tl.load(
            v_head + tl.cast(start_n, tl.int64) * stride_v_n + v_offsets,
            mask=start_n + range_16[:, None] < N,
            other=0.0,
        )
        p_cast = p.to(tl.float16)
        acc = tl.dot(p_cast, v_tile, acc, input_precision="ieee", out_dtype=tl.float32)
        row_max = new_max
    # key tiles that are kept whole
    for start_n in range(full_begin, full_end, 16):
        k_tile = tl.load(k_head + tl.cast(start_n, tl.int64) * stride_k_n + k_offsets)
        k_t = tl.trans(k_tile)
        scores = tl.dot(q_tile, k_t, input_precision="ieee", out_dtype=tl.float32)
        raw_max = tl.max(scores, 1)
        tile_max = raw_max * 0.12751743
        new_max = tl.maximum(row_max, tile_max, propagate_nan=tl.PropagateNan.ALL)
        alpha = tl.exp2(row_max - new_max)
        p = tl.exp2(scores * 0.12751743 - new_max[:, None])
        tile_sum = tl.sum(p, 1)
        row_sum = row_sum * alpha + tile_sum
        acc = acc * alpha[:, None]
        v_tile = tl.load(v_head + tl.cast(start_n, tl.int64) * stride_v_n + v_offsets)
        p_cast = p.to(tl.float16)
        acc = tl.dot(p_cast, v_tile, acc, input_precision="ieee", out_dtype=tl.float32)
        row_max = new_max
    # key tiles that the mask or the end of the keys cuts
    for start_n in range(full_end, end, 16):
        k_tile = tl.load(
            k_head + tl.cast(start_n, tl.int64) * stride_k_n + k_offsets,
            mask=start_n + range_16[:, None] < N,
            other=0.0,
        )
        k_t = tl.trans(k_tile)
        scores = tl.dot(q_tile, k_t, input_precision="ieee", out_dtype=tl.float32)
        mask = range_16[None, :] < (end_key - start_n)[:, None]
        scores = tl.where(mask, scores, float("-inf"))
        raw_max = tl.max(scores, 1)
        tile_max = raw_max * 0.12751743
        new_max = tl.maximum(row_max, tile_max, propagate_nan=tl.PropagateNan.ALL)
        no_key_yet = new_max == float("-inf")
        safe_max = tl.where(no_key_yet, 0.0, new_max)
        alpha = tl.exp2(row_max - safe_max)
        p = tl.exp2(scores * 0.12751743 - safe_max[:, None])
        tile_sum = tl.sum(p, 1)
        row_sum = row_sum * alpha + tile_sum
        acc = acc * alpha[:, None]
        v_tile = tl.load(
            v_head + tl.cast(start_n, tl.int64) * stride_v_n + v_offsets,
            mask=start_n + range_16[:, None] < N,
            other=0.0,
        )
        p_cast = p.to(tl.float16)
        acc = tl.dot(p_cast, v_tile, acc, input_precision="ieee", out_dtype=tl.float32)
        row_max = new_max
    no_key = row_sum == 0.0
    row_sum = tl.where(no_key, 1.0, row_sum)
    out_head = out_ptr + tl.cast(b, tl.int64) * stride_out_b + tl.cast(h, tl.int64) * stride_out_h
    out_offsets = range_128[:, None] * stride_out_m + range_128[None, :] * stride_out_d
    out_tile = acc / row_sum[:, None]
    out_tile = out_tile.to(tl.float16)
    tl.store(
        out_head + tl.cast(start_m, tl.int64) * stride_out_m + out_offsets,
        out_tile,
        mask=start_m + range_128[:, None] < M,
    )
    lse_head = lse_ptr + tl.cast(b, tl.int64) * stride_lse_b + tl.cast(h, tl.int64) * stride_lse_h
    lse_offsets = range_128 * stride_lse_m
    lse_tile = (row_max + tl.log2(row_sum)) * 0.6931472
    tl.store(
        lse_head + tl.cast(start_m, tl.int64) * stride_lse_m + lse_offsets,
        lse_tile,
        mask=start_m + range_128 < M,
    )


def launch(q, k, v, out, lse, num_warps=4, num_stages=1):
    """Start the kernel.

    q (B, H, M, 128), k (B, H, N, 128), v (B, H, N, 128), out (B, H, M, 128), lse (B, H, M)
    """
    H = q.shape[1]
    M = q.shape[2]
    N = k.shape[2]
    B = q.shape[0]
    grid = ((M + 127) // 128 * (B * H),)
    attention[grid](
        q, k, v, out, lse,
        q.stride(0), q.stride(1), q.stride(2), q.stride(3), k.stride(0), k.stride(1), k.stride(2),
        k.stride(3), v.stride(0), v.stride(1), v.stride(2), v.stride(3), out.stride(0),
        out.stride(1), out.stride(2), out.stride(3), lse.stride(0), lse.stride(1), lse.stride(2),
        H, M, N,
        num_warps=num_warps, num_stages=num_stages, enable_fp_fusion=True,
    )
