"""Fused attention kernel `attention`. Written by attir."""

import triton
import triton.language as tl


@triton.jit
def code_to_float32(code, step: tl.constexpr, bias: tl.constexpr):
    """code / step - bias, exactly: 2^23 with the bits of a code below it is 2^23 + code."""
    shifted = (code | 0x4B000000).to(tl.float32, bitcast=True)
    return shifted * (1.0 / step) - (8388608.0 / step + bias)


@triton.jit
def attention(
    q_ptr, k_ptr, v_ptr, key_scale_ptr, key_zero_ptr, value_scale_ptr, value_zero_ptr, out_ptr,
    stride_q_b, stride_q_h, stride_q_m, stride_q_d, stride_k_b, stride_k_h, stride_k_n, stride_k_d,
    stride_v_b, stride_v_h, stride_v_n, stride_v_d, stride_key_scale_0, stride_key_scale_1,
    stride_key_scale_2, stride_key_scale_3, stride_key_zero_0, stride_key_zero_1, stride_key_zero_2,
    stride_key_zero_3, stride_value_scale_0, stride_value_scale_1, stride_value_scale_2,
    stride_value_scale_3, stride_value_zero_0, stride_value_zero_1, stride_value_zero_2,
    stride_value_zero_3, stride_out_b, stride_out_h, stride_out_m, stride_out_d,
    H, M, N,
):
    range_128 = tl.arange(0, 128)
    range_64 = tl.arange(0, 64)
    range_32 = tl.arange(0, 32)
    k_offsets = range_32[:, None] * stride_k_n + range_64[None, :] * stride_k_d
    v_offsets = range_32[:, None] * stride_v_n + range_64[None, :] * stride_v_d
    pid = tl.program_id(0)
    query_tiles = (M + 127) // 128
    bh = pid // query_tiles
    tile = pid % query_tiles
    b = bh // H
    h = bh % H
    kh = h // 4
    start_m = tile * 128
    q_head = q_ptr + tl.cast(b, tl.int64) * stride_q_b + tl.cast(h, tl.int64) * stride_q_h
    q_offsets = range_128[:, None] * stride_q_m + range_64[None, :] * stride_q_d
    k_head = k_ptr + tl.cast(b, tl.int64) * stride_k_b + tl.cast(kh, tl.int64) * stride_k_h
    v_head = v_ptr + tl.cast(b, tl.int64) * stride_v_b + tl.cast(kh, tl.int64) * stride_v_h
    q_tile = tl.load(
        q_head + tl.cast(start_m, tl.int64) * stride_q_m + q_offsets,
        mask=start_m + range_128[:, None] < M,
        other=0.0,
    )
    q_tile_2 = tl.load(
        q_head
        + tl.cast(start_m, tl.int64) * stride_q_m
        + tl.cast(64, tl.int64) * stride_q_d
        + q_offsets,
        mask=start_m + range_128[:, None] < M,
        other=0.0,
    )
    full_end = N // 32 * 32
    acc = tl.full([128, 64], 0.0, tl.float32)
    acc_2 = tl.full([128, 64], 0.0, tl.float32)
    row_max = tl.full([128], float("-inf"), tl.float32)
    row_sum = tl.full([128], 0.0, tl.float32)
    # key tiles that are kept whole
    for start_n in range(0, full_end, 32):
        k_bytes = tl.load(k_head + tl.cast(start_n, tl.int64) * stride_k_n + k_offsets)
        k_bytes = k_bytes.to(tl.uint8, bitcast=True).to(tl.int32)
        k_tile = code_to_float32(k_bytes & 15, 1, 0)
        x = start_n // 64
        scale = tl.load(
            key_scale_ptr
            + tl.cast(b, tl.int64) * stride_key_scale_0
            + tl.cast(kh, tl.int64) * stride_key_scale_1
            + tl.cast(x, tl.int64) * stride_key_scale_2
            + tl.cast(range_64, tl.int64) * stride_key_scale_3
        )
        zero = tl.load(
            key_zero_ptr
            + tl.cast(b, tl.int64) * stride_key_zero_0
            + tl.cast(kh, tl.int64) * stride_key_zero_1
            + tl.cast(x, tl.int64) * stride_key_zero_2
            + tl.cast(range_64, tl.int64) * stride_key_zero_3
        )
        x_2 = (k_tile * scale[None, :] + zero[None, :]).to(tl.bfloat16)
        k_tile_2 = code_to_float32(k_bytes & 240, 16, 0)
        x_3 = range_64 + 64
        scale = tl.load(
            key_scale_ptr
            + tl.cast(b, tl.int64) * stride_key_scale_0
            + tl.cast(kh, tl.int64) * stride_key_scale_1
            + tl.cast(x, tl.int64) * stride_key_scale_2
            + tl.cast(x_3, tl.int64) * stride_key_scale_3
        )
        zero = tl.load(
            key_zero_ptr
            + tl.cast(b, tl.int64) * stride_key_zero_0
            + tl.cast(kh, tl.int64) * stride_key_zero_1
            + tl.cast(x, tl.int64) * stride_key_zero_2
            + tl.cast(x_3, tl.int64) * stride_key_zero_3
        )
        x_4 = (k_tile_2 * scale[None, :] + zero[None, :]).to(tl.bfloat16)
        k_t = tl.trans(x_2)
        scores = tl.dot(q_tile, k_t, input_precision="ieee", out_dtype=tl.float32)
        k_t_2 = tl.trans(x_4)
        scores = tl.dot(q_tile_2, k_t_2, scores, input_precision="ieee", out_dtype=tl.float32)
        raw_max = tl.max(scores, 1)
        tile_max = raw_max * 0.12751743
        new_max = tl.maximum(row_max, tile_max, propagate_nan=tl.PropagateNan.ALL)
        alpha = tl.exp2(row_max - new_max)
        p = tl.exp2(scores * 0.12751743 - new_max[:, None])
        tile_sum = tl.sum(p, 1)
        row_sum = row_sum * alpha + tile_sum
        acc = acc * alpha[:, None]
        acc_2 = acc_2 * alpha[:, None]
        v_bytes = tl.load(v_head + tl.cast(start_n, tl.int64) * stride_v_n + v_offsets)
        v_bytes = v_bytes.to(tl.uint8, bitcast=True).to(tl.int32)
        v_tile = code_to_float32(v_bytes & 15, 1, 0)
        offs_row = start_n + range_32
        scale = tl.load(
            value_scale_ptr
            + tl.cast(b, tl.int64) * stride_value_scale_0
            + tl.cast(kh, tl.int64) * stride_value_scale_1
            + tl.cast(offs_row, tl.int64) * stride_value_scale_2
        )
        zero = tl.load(
            value_zero_ptr
            + tl.cast(b, tl.int64) * stride_value_zero_0
            + tl.cast(kh, tl.int64) * stride_value_zero_1
            + tl.cast(offs_row, tl.int64) * stride_value_zero_2
        )
        x_5 = (v_tile * scale[:, None] + zero[:, None]).to(tl.bfloat16)
        v_tile_2 = code_to_float32(v_bytes & 240, 16, 0)
        scale = tl.load(
            value_scale_ptr
            + tl.cast(b, tl.int64) * stride_value_scale_0
            + tl.cast(kh, tl.int64) * stride_value_scale_1
            + tl.cast(1, tl.int64) * stride_value_scale_3
            + tl.cast(offs_row, tl.int64) * stride_value_scale_2
        )
        zero = tl.load(
            value_zero_ptr
            + tl.cast(b, tl.int64) * stride_value_zero_0
            + tl.cast(kh, tl.int64) * stride_value_zero_1
            + tl.cast(1, tl.int64) * stride_value_zero_3
            + tl.cast(offs_row, tl.int64) * stride_value_zero_2
        )
        x_6 = (v_tile_2 * scale[:, None] + zero[:, None]).to(tl.bfloat16)
        p_cast = p.to(tl.bfloat16)
        acc = tl.dot(p_cast, x_5, acc, input_precision="ieee", out_dtype=tl.float32)
        acc_2 = tl.dot(p_cast, x_6, acc_2, input_precision="ieee", out_dtype=tl.float32)
        row_max = new_max
    # key tiles that the mask or the end of the keys cuts
    for start_n in range(full_end, N, 32):
        k_bytes = tl.load(
            k_head + tl.cast(start_n, tl.int64) * stride_k_n + k_offsets,
            mask=start_n + range_32[:, None] < N,
            other=0,
        )
        k_bytes = k_bytes.to(tl.uint8, bitcast=True).to(tl.int32)
        k_tile = code_to_float32(k_bytes & 15, 1, 0)
        offs_row = start_n + range_32
        row_exists = offs_row < N
        x = start_n // 64
        scale = tl.load(
            key_scale_ptr
            + tl.cast(b, tl.int64) * stride_key_scale_0
            + tl.cast(kh, tl.int64) * stride_key_scale_1
            + tl.cast(x, tl.int64) * stride_key_scale_2
            + tl.cast(range_64, tl.int64) * stride_key_scale_3
        )
        zero = tl.load(
            key_zero_ptr
            + tl.cast(b, tl.int64) * stride_key_zero_0
            + tl.cast(kh, tl.int64) * stride_key_zero_1
            + tl.cast(x, tl.int64) * stride_key_zero_2
            + tl.cast(range_64, tl.int64) * stride_key_zero_3
        )
        x_2 = tl.where(row_exists[:, None], k_tile * scale[None, :] + zero[None, :], 0.0)
        k_tile_2 = code_to_float32(k_bytes & 240, 16, 0)
        x_3 = range_64 + 64
        scale = tl.load(
            key_scale_ptr
            + tl.cast(b, tl.int64) * stride_key_scale_0
            + tl.cast(kh, tl.int64) * stride_key_scale_1
            + tl.cast(x, tl.int64) * stride_key_scale_2
            + tl.cast(x_3, tl.int64) * stride_key_scale_3
        )
        zero = tl.load(
            key_zero_ptr
            + tl.cast(b, tl.int64) * stride_key_zero_0
            + tl.cast(kh, tl.int64) * stride_key_zero_1
            + tl.cast(x, tl.int64) * stride_key_zero_2
            + tl.cast(x_3, tl.int64) * stride_key_zero_3
        )
        x_4 = tl.where(row_exists[:, None], k_tile_2 * scale[None, :] + zero[None, :], 0.0)
        k_t = tl.trans(x_2.to(tl.bfloat16))
        scores = tl.dot(q_tile, k_t, input_precision="ieee", out_dtype=tl.float32)
        k_t_2 = tl.trans(x_4.to(tl.bfloat16))
        scores = tl.dot(q_tile_2, k_t_2, scores, input_precision="ieee", out_dtype=tl.float32)
        scores = tl.where(row_exists[None, :], scores, float("-inf"))
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
        acc_2 = acc_2 * alpha[:, None]
        v_bytes = tl.load(
            v_head + tl.cast(start_n, tl.int64) * stride_v_n + v_offsets,
            mask=start_n + range_32[:, None] < N,
            other=0,
        )
        v_bytes = v_bytes.to(tl.uint8, bitcast=True).to(tl.int32)
        v_tile = code_to_float32(v_bytes & 15, 1, 0)
        scale = tl.load(
            value_scale_ptr
            + tl.cast(b, tl.int64) * stride_value_scale_0
            + tl.cast(kh, tl.int64) * stride_value_scale_1
            + tl.cast(offs_row, tl.int64) * stride_value_scale_2,
            mask=row_exists,
            other=0.0,
        )
        zero = tl.load(
            value_zero_ptr
            + tl.cast(b, tl.int64) * stride_value_zero_0
            + tl.cast(kh, tl.int64) * stride_value_zero_1
            + tl.cast(offs_row, tl.int64) * stride_value_zero_2,
            mask=row_exists,
            other=0.0,
        )
        x_5 = tl.where(row_exists[:, None], v_tile * scale[:, None] + zero[:, None], 0.0)
        v_tile_2 = code_to_float32(v_bytes & 240, 16, 0)
        scale = tl.load(
            value_scale_ptr
            + tl.cast(b, tl.int64) * stride_value_scale_0
            + tl.cast(kh, tl.int64) * stride_value_scale_1
            + tl.cast(1, tl.int64) * stride_value_scale_3
            + tl.cast(offs_row, tl.int64) * stride_value_scale_2,
            mask=row_exists,
            other=0.0,
        )
        zero = tl.load(
            value_zero_ptr
            + tl.cast(b, tl.int64) * stride_value_zero_0
            + tl.cast(kh, tl.int64) * stride_value_zero_1
            + tl.cast(1, tl.int64) * stride_value_zero_3
            + tl.cast(offs_row, tl.int64) * stride_value_zero_2,
            mask=row_exists,
            other=0.0,
        )
        x_6 = tl.where(row_exists[:, None], v_tile_2 * scale[:, None] + zero[:, None], 0.0)
        p_cast = p.to(tl.bfloat16)
        acc = tl.dot(p_cast, x_5.to(tl.bfloat16), acc, input_precision="ieee", out_dtype=tl.float32)
        acc_2 = tl.dot(
            p_cast, x_6.to(tl.bfloat16), acc_2, input_precision="ieee", out_dtype=tl.float32
        )
        row_max = new_max
    no_key = row_sum == 0.0
    row_sum = tl.where(no_key, 1.0, row_sum)
    out_head = out_ptr + tl.cast(b, tl.int64) * stride_out_b + tl.cast(h, tl.int64) * stride_out_h
    out_offsets = range_128[:, None] * stride_out_m + range_64[None, :] * stride_out_d
    out_tile = acc / row_sum[:, None]
    out_tile = out_tile.to(tl.bfloat16)
    tl.store(
        out_head + tl.cast(start_m, tl.int64) * stride_out_m + out_offsets,
        out_tile,
        mask=start_m + range_128[:, None] < M,
    )
    out_tile = acc_2 / row_sum[:, None]
    out_tile = out_tile.to(tl.bfloat16)
    tl.store(
        out_head
        + tl.cast(start_m, tl.int64) * stride_out_m
        + tl.cast(64, tl.int64) * stride_out_d
        + out_offsets,
        out_tile,
        mask=start_m + range_128[:, None] < M,
    )


def launch(q, k, v, key_scale, key_zero, value_scale, value_zero, out, num_warps=8, num_stages=3):
    """Start the kernel.

    q (B, H, M, 128), k (B, K, N, 64), v (B, K, N, 64), key_scale (c0_0, c0_1, c0_2, 128),
    key_zero (c1_0, c1_1, c1_2, 128), value_scale (c2_0, c2_1, c2_2, 2), value_zero (c3_0, c3_1,
    c3_2, 2), out (B, H, M, 128)
    """
    H = q.shape[1]
    M = q.shape[2]
    N = k.shape[2]
    B = q.shape[0]
    grid = ((M + 127) // 128 * (B * H),)
    attention[grid](
        q, k, v, key_scale, key_zero, value_scale, value_zero, out,
        q.stride(0), q.stride(1), q.stride(2), q.stride(3), k.stride(0), k.stride(1), k.stride(2),
        k.stride(3), v.stride(0), v.stride(1), v.stride(2), v.stride(3), key_scale.stride(0),
        key_scale.stride(1), key_scale.stride(2), key_scale.stride(3), key_zero.stride(0),
        key_zero.stride(1), key_zero.stride(2), key_zero.stride(3), value_scale.stride(0),
        value_scale.stride(1), value_scale.stride(2), value_scale.stride(3), value_zero.stride(0),
        value_zero.stride(1), value_zero.stride(2), value_zero.stride(3), out.stride(0),
        out.stride(1), out.stride(2), out.stride(3),
        H, M, N,
        num_warps=num_warps, num_stages=num_stages, enable_fp_fusion=True,
    )
