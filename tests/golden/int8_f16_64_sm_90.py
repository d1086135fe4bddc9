"""Fused attention kernel `attention`. Written by attir."""

import triton
import triton.language as tl


@triton.jit
def attention(
    q_ptr, k_ptr, v_ptr, query_scale_ptr, key_scale_ptr, out_ptr,
    stride_q_b, stride_q_h, stride_q_m, stride_q_d, stride_k_b, stride_k_h, stride_k_n, stride_v_b,
    stride_v_h, stride_v_n, stride_query_scale_0, stride_query_scale_1, stride_query_scale_2,
    stride_key_scale_0, stride_key_scale_1, stride_key_scale_2, stride_out_b, stride_out_h,
    stride_out_m, stride_out_d,
    B, H, M, N,
):
    range_64 = tl.arange(0, 64)
    pid = tl.program_id(0)
    query_tiles = (M + 63) // 64
    x = B * H
    heads_at_once = tl.minimum(tl.maximum(262144 // tl.maximum(N, 1), 1), x)
    programs_at_once = heads_at_once * query_tiles
    first_bh = pid // programs_at_once * heads_at_once
    heads_here = tl.minimum(heads_at_once, x - first_bh)
    place = pid % programs_at_once
    bh = first_bh + place % heads_here
    tile = place // heads_here
    tile = query_tiles - 1 - tile
    b = bh // H
    h = bh % H
    start_m = tile * 64
    offs_m = start_m + range_64
    row_valid = offs_m < M
    q_head = q_ptr + tl.cast(b, tl.int64) * stride_q_b + tl.cast(h, tl.int64) * stride_q_h
    q_offsets = range_64[:, None] * stride_q_m + range_64[None, :] * stride_q_d
    k_head = k_ptr + tl.cast(b, tl.int64) * stride_k_b + tl.cast(h, tl.int64) * stride_k_h
    k_desc = tl.make_tensor_descriptor(k_head, [N, 64], [stride_k_n, 1], [64, 64])
    v_head = v_ptr + tl.cast(b, tl.int64) * stride_v_b + tl.cast(h, tl.int64) * stride_v_h
    v_desc = tl.make_tensor_descriptor(v_head, [N, 64], [stride_v_n, 1], [64, 64])
    q_tile = tl.load(
        q_head + tl.cast(start_m, tl.int64) * stride_q_m + q_offsets,
        mask=start_m + range_64[:, None] < M,
        other=0,
    )
    scale = tl.load(
        query_scale_ptr
        + tl.cast(b, tl.int64) * stride_query_scale_0
        + tl.cast(h, tl.int64) * stride_query_scale_1
        + tl.cast(offs_m, tl.int64) * stride_query_scale_2,
        mask=row_valid,
        other=0.0,
    )
    row_end = tl.minimum(start_m + 64, M)
    end = tl.minimum(N, row_end)
    full_end = tl.minimum(N, start_m + 1) // 64 * 64
    end_key = tl.minimum(offs_m + 1, N)
    acc = tl.full([64, 64], 0.0, tl.float32)
    row_max = tl.full([64], float("-inf"), tl.float32)
    row_sum = tl.full([64], 0.0, tl.float32)
    # key tiles that are kept whole
    for start_n in range(0, full_end, 64):
        k_tile = k_desc.load([start_n, 0])
        v_tile = v_desc.load([start_n, 0])
        offs_n = start_n + range_64
        scale_2 = tl.load(
            key_scale_ptr
            + tl.cast(b, tl.int64) * stride_key_scale_0
            + tl.cast(h, tl.int64) * stride_key_scale_1
            + tl.cast(offs_n, tl.int64) * stride_key_scale_2
        )
        k_t = tl.trans(k_tile)
        scores = tl.dot(q_tile, k_t, out_dtype=tl.int32)
        scores = scores.to(tl.float32)
        scores = scores * scale[:, None]
        scores = scores * scale_2[None, :]
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
        row_max = new_max
    # key tiles that the mask or the end of the keys cuts
    for start_n in tl.range(full_end, end, 64, num_stages=1):
        k_tile = k_desc.load([start_n, 0])
        v_tile = v_desc.load([start_n, 0])
        offs_n = start_n + range_64
        key_valid = offs_n < N
        scale_2 = tl.load(
            key_scale_ptr
            + tl.cast(b, tl.int64) * stride_key_scale_0
            + tl.cast(h, tl.int64) * stride_key_scale_1
            + tl.cast(offs_n, tl.int64) * stride_key_scale_2,
            mask=key_valid,
            other=0.0,
        )
        k_t = tl.trans(k_tile)
        scores = tl.dot(q_tile, k_t, out_dtype=tl.int32)
        scores = scores.to(tl.float32)
        scores = scores * scale[:, None]
        scores = scores * scale_2[None, :]
        mask = offs_n[None, :] < end_key[:, None]
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


def launch(q, k, v, query_scale, key_scale, out, num_warps=4, num_stages=3):
    """Start the kernel.

    q (B, H, M, 64), k (B, K, N, 64), v (B, K, N, 64), query_scale (c0_0, c0_1, c0_2, 1),
    key_scale (c1_0, c1_1, c1_2, 1), out (B, H, M, 64)
    """
    B = q.shape[0]
    H = q.shape[1]
    M = q.shape[2]
    N = k.shape[2]
    grid = ((M + 63) // 64 * (B * H),)
    attention[grid](
        q, k, v, query_scale, key_scale, out,
        q.stride(0), q.stride(1), q.stride(2), q.stride(3), k.stride(0), k.stride(1), k.stride(2),
        v.stride(0), v.stride(1), v.stride(2), query_scale.stride(0), query_scale.stride(1),
        query_scale.stride(2), key_scale.stride(0), key_scale.stride(1), key_scale.stride(2),
        out.stride(0), out.stride(1), out.stride(2), out.stride(3),
        B, H, M, N,
        num_warps=num_warps, num_stages=num_stages, enable_fp_fusion=True,
    )
