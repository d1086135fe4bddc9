"""Functions Triton does not have, or has only where its interpreter cannot go; written in Triton.

Each is text that is put above the kernels that call it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

LIBRARY: Mapping[str, str] = {
    "tanh": '''
@triton.jit
def tanh(x):
    """A series near zero, where 1 - exp(-2|x|) would cancel; elsewhere exp, which saturates."""
    square = x * x
    series = 62.0 / 2835.0 + square * (-1382.0 / 155925.0)
    series = -17.0 / 315.0 + square * series
    series = 2.0 / 15.0 + square * series
    near = x + x * square * (-1.0 / 3.0 + square * series)
    decay = tl.exp(-2.0 * tl.abs(x))
    far = (1.0 - decay) / (1.0 + decay)
    return tl.where(tl.abs(x) < 0.25, near, tl.where(x < 0.0, -far, far))
''',
    "tanh_of_cap": '''
@triton.jit
def tanh_of_cap(x):
    """1 - 2 / (exp(2 x) + 1): right to 2^-22 of 1, not to the last digits of small results."""
    root = tl.rsqrt(tl.exp2(2.8853900817779268 * x) + 1.0)
    return 1.0 - 2.0 * (root * root)
''',
    "exp_minus_1": '''
@triton.jit
def exp_minus_1(x):
    """(u - 1) x / log u with u = exp x, in which the rounding of u cancels (Kahan)."""
    u = tl.exp(x)
    corrected = (u - 1.0) * (x / tl.log(u))
    result = tl.where(tl.abs(x) < 1.0, corrected, u - 1.0)
    return tl.where(u == 1.0, x, result)
''',
    "log_1_plus": '''
@triton.jit
def log_1_plus(x):
    """log u - ((u - 1) - x) / u with u = 1 + x: the second term is what rounding u lost."""
    u = 1.0 + x
    corrected = tl.log(u) - ((u - 1.0) - x) / u
    return tl.where((u > 0.0) & (u < float("inf")), corrected, tl.log(u))
''',
    "power": '''
@triton.jit
def power(x, y):
    """2 to the y log2 |x|; a negative x has a power only for whole y, negative for odd ones."""
    # Either may be a plain number, which has no methods of tensors.
    nothing = tl.zeros_like(x + y)
    x, y = nothing + x, nothing + y
    magnitude = tl.exp2(y * tl.log2(tl.abs(x)))
    whole = tl.floor(y) == y
    odd = whole & (tl.floor(y * 0.5) * 2.0 != y)
    signed = tl.where((x < 0.0) & odd, -magnitude, magnitude)
    signed = tl.where((x < 0.0) & ~whole, float("nan"), signed)
    return tl.where((y == 0.0) | (x == 1.0), 1.0, signed)
''',
    "float_remainder": '''
@triton.jit
def float_remainder(x, y):
    """x - trunc(x / y) y, with the sign of x."""
    quotient = x / y
    whole = tl.where(quotient < 0.0, tl.ceil(quotient), tl.floor(quotient))
    return x - whole * y
''',
    "code_to_float16": '''
@triton.jit
def code_to_float16(code, step: tl.constexpr, bias: tl.constexpr):
    """code / step - bias, exactly: 1024 with the bits of a code below it is 1024 + code."""
    shifted = (code | 0x6400).to(tl.float16, bitcast=True)
    return shifted * (1.0 / step) - (1024.0 / step + bias)
''',
    "code_to_bfloat16": '''
@triton.jit
def code_to_bfloat16(code, step: tl.constexpr, bias: tl.constexpr):
    """code / step - bias, exactly: 128 with the bits of a code below it is 128 + code."""
    shifted = (code | 0x4300).to(tl.bfloat16, bitcast=True)
    return shifted * (1.0 / step) - (128.0 / step + bias)
''',
    "code_to_float32": '''
@triton.jit
def code_to_float32(code, step: tl.constexpr, bias: tl.constexpr):
    """code / step - bias, exactly: 2^23 with the bits of a code below it is 2^23 + code."""
    shifted = (code | 0x4B000000).to(tl.float32, bitcast=True)
    return shifted * (1.0 / step) - (8388608.0 / step + bias)
''',
    "floor_divide": '''
@triton.jit
def floor_divide(x, y):
    """x / y rounded down, where Triton's own // rounds towards zero."""
    quotient = x // y
    rest = x - quotient * y
    return tl.where((rest != 0) & ((rest < 0) != (y < 0)), quotient - 1, quotient)
''',
}


def library_text(functions: Iterable[str]) -> str:
    """The definitions of `functions`, in alphabetical order, each followed by two empty lines."""
    return "".join(LIBRARY[name].lstrip() + "\n\n" for name in sorted(functions))
