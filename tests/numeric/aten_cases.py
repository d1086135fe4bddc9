"""The table of what the interpreter's ATen tests run: overloads, and the arguments to call them with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from attir.ir.attributes import DialectAttr, f32, i1, i32, i64

LAST = 9223372036854775807
INF = float("inf")


@dataclass(frozen=True)
class Input:
    """A random tensor: normal floats of the dtype under test, positive ones, integers below `high`, or bools."""

    kind: str
    shape: tuple[int, ...]
    high: int = 0

    def make(self, generator: torch.Generator) -> torch.Tensor:
        if self.kind == "integer":
            return torch.randint(0, self.high, self.shape, generator=generator)
        if self.kind == "bool":
            return torch.randint(0, 2, self.shape, generator=generator).bool()
        x = torch.randn(self.shape, generator=generator, dtype=torch.float64)
        return x.abs() + 0.1 if self.kind == "positive" else x


def F(*shape: int) -> Input:  # noqa: N802
    return Input("normal", shape)


def P(*shape: int) -> Input:  # noqa: N802
    return Input("positive", shape)


def I(high: int, *shape: int) -> Input:  # noqa: N802, E743
    return Input("integer", shape, high)


def B(*shape: int) -> Input:  # noqa: N802
    return Input("bool", shape)


Case = tuple[str, dict[str, Any]]

UNARY = (
    "neg", "abs", "sign", "square", "exp", "exp2", "expm1", "sin", "cos", "tanh", "erf", "sigmoid", "silu", "relu",
    "floor", "ceil", "round", "trunc", "isnan", "isinf", "isfinite", "isneginf", "isposinf", "gelu", "softplus",
    "leaky_relu", "logical_not", "clone", "alias", "detach", "contiguous", "lift_fresh", "lift_fresh_copy",
)  # fmt: skip
POSITIVE = ("sqrt", "rsqrt", "log", "log2", "log1p", "reciprocal")
BINARY = (
    "add.Tensor", "sub.Tensor", "rsub.Tensor", "mul.Tensor", "div.Tensor", "maximum", "minimum", "max.other",
    "min.other", "eq.Tensor", "ne.Tensor", "lt.Tensor", "le.Tensor", "gt.Tensor", "ge.Tensor", "logical_and",
    "logical_or", "logical_xor",
)  # fmt: skip
WITH_SCALAR = (
    "add.Scalar", "sub.Scalar", "rsub.Scalar", "mul.Scalar", "div.Scalar", "eq.Scalar", "ne.Scalar", "lt.Scalar",
    "le.Scalar", "gt.Scalar", "ge.Scalar", "remainder.Scalar", "floor_divide.Scalar",
)  # fmt: skip
BITWISE = tuple(f"{n}.Tensor" for n in ("__and__", "__or__", "__xor__", "bitwise_and", "bitwise_or", "bitwise_xor"))
BITWISE_SCALAR = tuple(name.replace("Tensor", "Scalar") for name in BITWISE)

CASES: Sequence[Case] = (
    *((name, {"self": F(3, 5, 7)}) for name in UNARY),
    *((name, {"self": P(3, 5)}) for name in POSITIVE),
    *((name, {"self": F(3, 1, 7), "other": F(5, 7)}) for name in BINARY),
    *((name, {"self": F(5, 3), "other": 0.7}) for name in WITH_SCALAR),
    *((name, {"self": I(9, 5, 3), "other": I(9, 3)}) for name in BITWISE),
    *((name, {"self": B(5, 3), "other": B(5, 3)}) for name in BITWISE),
    *((name, {"self": I(9, 5, 3), "other": 5}) for name in BITWISE_SCALAR),
    ("bitwise_not", {"self": B(5)}),
    ("bitwise_not", {"self": I(9, 5)}),
    ("add.Tensor", {"self": F(3, 5), "other": F(5), "alpha": 2.5}),
    ("add.Tensor", {"self": I(9, 3, 5), "other": I(9, 5), "alpha": 2}),
    ("add.Tensor", {"self": B(3, 5), "other": B(5)}),
    ("add.Tensor", {"self": I(9, 3, 5), "other": F(5)}),
    ("sub.Tensor", {"self": F(3, 5), "other": F(5), "alpha": 0.5}),
    ("mul.Tensor", {"self": I(9, 3, 5), "other": 0.5}),
    ("mul.Tensor", {"self": B(3, 5), "other": F(5)}),
    ("div.Tensor", {"self": I(9, 3, 5), "other": I(9, 3, 5)}),
    ("div.Tensor_mode", {"self": F(9), "other": P(9), "rounding_mode": "floor"}),
    ("div.Tensor_mode", {"self": F(9), "other": P(9), "rounding_mode": "trunc"}),
    ("div.Scalar_mode", {"self": I(50, 9), "other": 7, "rounding_mode": "floor"}),
    ("div.Scalar_mode", {"self": F(9), "other": 7.0, "rounding_mode": None}),
    ("floor_divide", {"self": F(9), "other": P(9)}),
    ("floor_divide.Scalar", {"self": I(50, 9), "other": -7}),
    ("remainder.Tensor", {"self": F(9), "other": P(9)}),
    ("remainder.Scalar", {"self": I(50, 9), "other": -7}),
    ("pow.Tensor_Scalar", {"self": F(9), "exponent": 2}),
    ("pow.Tensor_Scalar", {"self": P(9), "exponent": -0.5}),
    ("pow.Tensor_Scalar", {"self": I(9, 9), "exponent": 3}),
    ("pow.Tensor_Tensor", {"self": P(9), "exponent": F(9)}),
    ("pow.Scalar", {"self": 2.0, "exponent": F(9)}),
    ("addcmul", {"self": F(3, 5), "tensor1": F(5), "tensor2": F(3, 1), "value": 0.5}),
    ("lerp.Scalar", {"self": F(9), "end": F(9), "weight": 0.3}),
    ("gelu", {"self": F(3, 5), "approximate": "tanh"}),
    ("softplus", {"self": F(9), "beta": 2.0, "threshold": 1.0}),
    ("clamp", {"self": F(9), "min": -0.3, "max": 0.4}),
    ("clamp", {"self": I(9, 9), "max": 4}),
    ("clamp.Tensor", {"self": F(9), "min": F(9)}),
    ("clamp_min", {"self": F(9), "min": 0}),
    ("clamp_max", {"self": F(9), "max": 0.1}),
    ("where.self", {"condition": B(3, 1), "self": F(5), "other": F(3, 5)}),
    ("where.Scalar", {"condition": B(3, 5), "self": 1.5, "other": -INF}),
    ("where.ScalarSelf", {"condition": B(3, 5), "self": 1.5, "other": F(5)}),
    ("where.ScalarOther", {"condition": B(3, 5), "self": F(5), "other": -INF}),
    ("masked_fill.Scalar", {"self": F(3, 5), "mask": B(5), "value": -INF}),
    ("masked_fill.Tensor", {"self": F(3, 5), "mask": B(5), "value": F()}),
    ("to.dtype", {"self": F(9), "dtype": i64}),
    ("to.dtype", {"self": I(3, 9), "dtype": i1}),
    ("to.dtype_layout", {"self": F(9), "dtype": f32}),
    ("to.device", {"self": I(9, 9), "device": DialectAttr("aten.device", "cpu"), "dtype": f32}),
    ("to.other", {"self": F(9), "other": I(9, 1)}),
    ("_to_copy", {"self": B(9), "dtype": f32}),
    ("type_as", {"self": I(9, 9), "other": F(1)}),
    ("dropout", {"input": F(9), "p": 0.1, "train": False}),
    ("sum", {"self": F(3, 5)}),
    ("sum", {"self": B(3, 5)}),
    ("sum.dim_IntList", {"self": F(3, 5, 7), "dim": [0, -1]}),
    ("linalg_vector_norm", {"self": F(3, 5, 7), "ord": 2.0, "dim": [-1], "keepdim": True}),
    ("sum.dim_IntList", {"self": I(9, 3, 5), "dim": [1], "keepdim": True}),
    ("mean", {"self": F(3, 5)}),
    ("mean.dim", {"self": F(3, 5), "dim": [-1], "keepdim": True}),
    ("mean.dim", {"self": F(3, 5), "dim": None}),
    ("prod", {"self": F(5)}),
    ("amax", {"self": F(3, 5), "dim": [-1], "keepdim": True}),
    ("amax", {"self": F(3, 5)}),
    ("amin", {"self": F(3, 5), "dim": [0]}),
    ("max", {"self": F(3, 5)}),
    ("min", {"self": I(9, 3, 5)}),
    ("max.dim", {"self": F(3, 5), "dim": 1}),
    ("min.dim", {"self": F(3, 5), "dim": 0, "keepdim": True}),
    ("argmax", {"self": F(3, 5)}),
    ("argmax", {"self": F(3, 5), "dim": -1, "keepdim": True}),
    ("any", {"self": B(3, 5)}),
    ("any.dim", {"self": B(3, 5), "dim": 1}),
    ("any.dims", {"self": B(3, 5), "dim": [0, 1], "keepdim": True}),
    ("all", {"self": B(3, 5)}),
    ("all.dim", {"self": B(3, 5), "dim": 1, "keepdim": True}),
    ("all.dims", {"self": B(3, 5), "dim": [0]}),
    ("var.dim", {"self": F(3, 5), "dim": [1], "unbiased": False}),
    ("var.correction", {"self": F(3, 5), "dim": [1], "keepdim": True}),
    ("var.correction", {"self": F(3, 5), "dim": [0, 1], "correction": 2}),
    ("cumsum", {"self": F(3, 5), "dim": 1}),
    ("cumsum", {"self": B(3, 5), "dim": 0}),
    ("diff", {"self": F(3, 5), "n": 2, "dim": 1}),
    ("diff", {"self": I(9, 3, 5), "prepend": I(9, 3, 1), "append": I(9, 3, 2)}),
    ("diff", {"self": B(9)}),
    ("softmax.int", {"self": F(3, 5), "dim": -1}),
    ("softmax.int", {"self": F(3, 5), "dim": 0, "dtype": f32}),
    ("softmax.int", {"self": I(9, 3, 5), "dim": 0, "dtype": f32}),
    ("_softmax", {"self": F(3, 5), "dim": 1, "half_to_float": False}),
    ("_safe_softmax", {"self": F(3, 5), "dim": 1}),
    ("log_softmax.int", {"self": F(3, 5), "dim": 1}),
    ("_log_softmax", {"self": F(3, 5), "dim": 0, "half_to_float": False}),
    ("logsumexp", {"self": F(3, 5), "dim": [1]}),
    ("logsumexp", {"self": F(3, 5), "dim": [0, 1], "keepdim": True}),
    ("layer_norm", {"input": F(3, 5), "normalized_shape": [5], "weight": F(5), "bias": F(5)}),
    ("layer_norm", {"input": F(3, 5, 2), "normalized_shape": [5, 2], "eps": 1e-3}),
    ("native_layer_norm", {"input": F(3, 5), "normalized_shape": [5], "weight": F(5), "bias": None, "eps": 1e-5}),
    ("rms_norm", {"input": F(3, 5), "normalized_shape": [5], "weight": F(5), "eps": 1e-6}),
    ("matmul", {"self": F(2, 3, 5), "other": F(5, 4)}),
    ("matmul", {"self": F(5), "other": F(2, 5, 4)}),
    ("matmul", {"self": F(5), "other": F(5)}),
    ("mm", {"self": F(3, 5), "mat2": F(5, 4)}),
    ("bmm", {"self": F(2, 3, 5), "mat2": F(2, 5, 4)}),
    ("mv", {"self": F(3, 5), "vec": F(5)}),
    ("dot", {"self": F(5), "tensor": F(5)}),
    ("outer", {"self": F(5), "vec2": F(3)}),
    ("addmm", {"self": F(4), "mat1": F(3, 5), "mat2": F(5, 4), "beta": 0.5, "alpha": 2.0}),
    ("addmm", {"self": F(4), "mat1": F(3, 5), "mat2": F(5, 4), "beta": 0}),
    ("baddbmm", {"self": F(2, 3, 4), "batch1": F(2, 3, 5), "batch2": F(2, 5, 4), "alpha": 0.125}),
    ("linear", {"input": F(2, 3, 5), "weight": F(4, 5), "bias": F(4)}),
    ("linear", {"input": F(3, 5), "weight": F(4, 5)}),
    ("einsum", {"equation": "bhqd,bhkd->bhqk", "tensors": [F(2, 3, 5, 4), F(2, 3, 7, 4)]}),
    ("einsum", {"equation": "...ij, jk", "tensors": [F(2, 3, 5), F(5, 4)]}),
    ("scaled_dot_product_attention", {"query": F(2, 3, 5, 4), "key": F(2, 3, 7, 4), "value": F(2, 3, 7, 6)}),
    (
        "scaled_dot_product_attention",
        {"query": F(2, 3, 5, 4), "key": F(2, 3, 7, 4), "value": F(2, 3, 7, 4), "is_causal": True, "scale": 0.3},
    ),
    (
        "scaled_dot_product_attention",
        {
            "query": F(2, 4, 5, 4),
            "key": F(2, 2, 7, 4),
            "value": F(2, 2, 7, 4),
            "attn_mask": B(2, 1, 5, 7),
            "enable_gqa": True,
        },
    ),
    (
        "scaled_dot_product_attention",
        {"query": F(3, 5, 4), "key": F(3, 7, 4), "value": F(3, 7, 4), "attn_mask": F(5, 7)},
    ),
    ("view", {"self": F(3, 4, 5), "size": [2, -1]}),
    ("_unsafe_view", {"self": F(3, 4), "size": [4, 3]}),
    ("reshape", {"self": F(3, 4), "shape": [-1]}),
    ("view_as", {"self": F(3, 4), "other": F(2, 6)}),
    ("reshape_as", {"self": F(3, 4), "other": F(12)}),
    ("expand", {"self": F(3, 1), "size": [2, -1, 5]}),
    ("expand_as", {"self": F(3, 1), "other": F(3, 5)}),
    ("unsqueeze", {"self": F(3, 5), "dim": -1}),
    ("unsqueeze", {"self": F(3, 5), "dim": 0}),
    ("squeeze", {"self": F(1, 5, 1)}),
    ("squeeze.dim", {"self": F(1, 5, 1), "dim": -1}),
    ("squeeze.dim", {"self": F(1, 5, 1), "dim": 1}),
    ("squeeze.dims", {"self": F(1, 5, 1), "dim": [0, 1, -1]}),
    ("flatten.using_ints", {"self": F(2, 3, 5, 2), "start_dim": 1, "end_dim": -2}),
    ("flatten.using_ints", {"self": F()}),
    ("unflatten.int", {"self": F(2, 12), "dim": -1, "sizes": [3, -1]}),
    ("t", {"self": F(3, 5)}),
    ("t", {"self": F(3)}),
    ("numpy_T", {"self": F(3, 5)}),
    ("mT", {"self": F(2, 3, 5)}),
    ("transpose.int", {"self": F(2, 3, 5), "dim0": -1, "dim1": 0}),
    ("transpose.int", {"self": F(), "dim0": -1, "dim1": 0}),
    ("swapaxes", {"self": F(2, 3, 5), "axis0": 1, "axis1": 2}),
    ("permute", {"self": F(2, 3, 5), "dims": [2, 0, -2]}),
    ("movedim.int", {"self": F(2, 3, 5), "source": 0, "destination": -1}),
    ("slice.Tensor", {"self": F(9, 5), "dim": 0, "start": 2, "end": LAST, "step": 3}),
    ("slice.Tensor", {"self": F(9, 5), "dim": -1, "start": -3, "end": -1}),
    ("slice.Tensor", {"self": F(9), "start": 7, "end": 3}),
    ("slice.Tensor", {"self": F(9), "start": None, "end": 3}),
    ("narrow", {"self": F(9, 5), "dim": 0, "start": -4, "length": 2}),
    ("select.int", {"self": F(9, 5), "dim": 1, "index": -2}),
    ("cat", {"tensors": [F(2, 5), F(3, 5)]}),
    ("cat", {"tensors": [F(0), F(3, 5), F(3, 2)], "dim": -1}),
    ("stack", {"tensors": [F(2, 5), F(2, 5)], "dim": -1}),
    ("split.Tensor", {"self": F(9, 5), "split_size": 4}),
    ("split.Tensor", {"self": F(0, 5), "split_size": 4}),
    ("split.sizes", {"self": F(5, 9), "split_size": [2, 3, 4], "dim": -1}),
    ("split_with_sizes", {"self": F(9), "split_sizes": [2, 7]}),
    ("chunk", {"self": F(9, 5), "chunks": 4}),
    ("chunk", {"self": F(5, 0), "chunks": 3, "dim": 1}),
    ("unbind.int", {"self": F(5, 3), "dim": 1}),
    ("repeat", {"self": F(2, 3), "repeats": [2, 1, 3]}),
    ("repeat_interleave.self_int", {"self": F(2, 3), "repeats": 2, "dim": -1}),
    ("repeat_interleave.self_int", {"self": F(2, 3), "repeats": 2}),
    ("roll", {"self": F(2, 5), "shifts": [2], "dims": [1]}),
    ("roll", {"self": F(2, 5), "shifts": [3]}),
    ("flip", {"self": F(2, 5), "dims": [0, -1]}),
    ("pad", {"self": F(2, 5), "pad": [1, 2, -1, 3], "value": 0.5}),
    ("constant_pad_nd", {"self": F(2, 5), "pad": [0, -2]}),
    ("tril", {"self": F(2, 5, 7)}),
    ("tril", {"self": B(5, 7), "diagonal": 2}),
    ("triu", {"self": F(5, 7), "diagonal": -1}),
    ("arange", {"end": 7, "dtype": i64}),
    ("arange", {"end": 0, "dtype": i64}),
    ("arange.start", {"start": 2, "end": 7, "dtype": i32}),
    ("arange.start_step", {"start": 0.0, "end": 1.0, "step": 0.3, "dtype": f32}),
    ("arange.start_step", {"start": 7, "end": 1, "step": -2, "dtype": i64}),
    ("zeros", {"size": [3, 5], "dtype": i1}),
    ("ones", {"size": [], "dtype": f32}),
    ("full", {"size": [3], "fill_value": 1.1, "dtype": f32}),
    ("new_zeros", {"self": F(3), "size": [2, 3]}),
    ("new_ones", {"self": F(3), "size": [], "dtype": i1}),
    ("new_full", {"self": F(3), "size": [2], "fill_value": -INF}),
    ("zeros_like", {"self": F(3, 5)}),
    ("ones_like", {"self": I(9, 5), "dtype": f32}),
    ("full_like", {"self": F(3, 5), "fill_value": 0.1}),
    ("scalar_tensor", {"s": 0.1, "dtype": f32}),
    ("embedding", {"weight": F(9, 5), "indices": I(9, 2, 3)}),
    ("index_select", {"self": F(9, 5), "dim": -1, "index": I(5, 4)}),
    ("gather", {"self": F(4, 5), "dim": 1, "index": I(5, 3, 7)}),
    ("gather", {"self": F(4, 5), "dim": 0, "index": I(4, 3, 2)}),
    ("index.Tensor", {"self": F(4, 5), "indices": [I(4, 2, 1), I(5, 3)]}),
    ("index.Tensor", {"self": F(4, 5, 6), "indices": [None, I(5, 3)]}),
    ("index.Tensor", {"self": F(4, 5, 6), "indices": [I(4, 3), None, I(6, 3)]}),
    ("index.Tensor", {"self": F(4, 5), "indices": [B(4)]}),
    ("sym_size.int", {"self": F(4, 5), "dim": -1}),
    ("scatter.value", {"self": F(4, 5), "dim": -1, "index": I(5, 4, 3), "value": 2.0}),
    ("index_put", {"self": F(4, 5), "indices": [I(4, 1), None], "values": F(5)}),
    ("argsort.stable", {"self": I(3, 4, 9), "stable": True}),
    ("argsort.stable", {"self": I(3, 4, 9), "stable": True, "descending": True, "dim": 0}),
)  # fmt: skip


MISTAKES: Sequence[tuple[str, dict[str, Any], str]] = (
    ("dropout", {"input": F(3), "p": 0.5, "train": True}, "draws random numbers in training"),
    ("embedding", {"weight": F(4, 5), "indices": I(9, 40)}, r"reads index \d of axis 0, which has size 4"),
    ("index_select", {"self": F(4, 5), "dim": 1, "index": I(9, 40)}, r"reads index \d of axis 1, which has size 5"),
    ("gather", {"self": F(4, 5), "dim": 0, "index": I(9, 40, 5)}, r"reads index \d of axis 0, which has size 4"),
    ("index.Tensor", {"self": F(4), "indices": [I(9, 40)]}, r"cannot be executed on operands of shape \(4,\), \(40,\)"),
    ("view", {"self": F(3, 5), "size": [4, 4]}, "cannot be executed on operands of shape"),
    ("select.int", {"self": F(3, 5), "dim": 0, "index": 3}, "cannot be executed on operands of shape"),
    (
        "narrow",
        {"self": F(9), "dim": 0, "start": 5, "length": 6},
        "takes positions 5 to 10 of axis 0, which has size 9",
    ),
    (
        "split_with_sizes",
        {"self": F(9), "split_sizes": [2, 3]},
        r"splits into \[2, 3\], which do not add up",
    ),
    ("floor_divide", {"self": I(9, 5), "other": 0}, "divides integers by zero"),
    ("remainder.Scalar", {"self": I(9, 5), "other": 0}, "divides integers by zero"),
    ("pad", {"self": F(5), "pad": [1, 1], "mode": "reflect"}, "pads with mode 'reflect'"),
    ("softmax.int", {"self": F(5)}, "argument 'dim' is missing"),
    (
        "scaled_dot_product_attention",
        {"query": F(3, 4), "key": F(3, 4), "value": F(3, 4), "attn_mask": B(3, 3), "is_causal": True},
        "takes either attn_mask or is_causal",
    ),
    (
        "scaled_dot_product_attention",
        {"query": F(3, 4), "key": F(3, 4), "value": F(3, 4), "dropout_p": 0.1},
        "draws random numbers for dropout",
    ),
)
