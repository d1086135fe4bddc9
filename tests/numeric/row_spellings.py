"""What models compute in front of q, k and v and behind the output, as people write it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

BATCH, HEADS, KEY_HEADS = 2, 4, 2


@dataclass(frozen=True)
class RowSpelling:
    """A function of random tensors of `shapes`, with L for the length and D for the head dimension.

    `regions` are those that its attention gets where everything that can be is absorbed.
    """

    function: Callable[..., Tensor]
    shapes: Sequence[Sequence[int | str]]
    regions: frozenset[str] = field(default_factory=frozenset[str])

    def inputs(self, length: int, width: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> list[Tensor]:
        """Tables (of two axes) hold angles; the others normally distributed numbers."""
        generator = torch.Generator().manual_seed(seed)
        sizes: dict[int | str, int] = {"L": length, "D": width, "D/2": width // 2, "D/4": width // 4}
        sizes |= {"HD": HEADS * width, "KD": KEY_HEADS * width, "3HD": 3 * HEADS * width}
        shapes = [tuple(sizes.get(s, s) for s in shape) for shape in self.shapes]
        return [torch.randn([int(s) for s in shape], generator=generator).to(dtype) for shape in shapes]


SPELLINGS: list[RowSpelling] = []
ROWS, KEY_ROWS = (BATCH, "L", "HD"), (BATCH, "L", "KD")
ANGLES = ("L", "D/2")


def spelling(*shapes: Sequence[int | str], regions: str) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Adds a function to the list."""

    def add(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        SPELLINGS.append(RowSpelling(function, shapes, frozenset(regions.split())))
        return function

    return add


def heads(x: Tensor, count: int) -> Tensor:
    """(B, L, count * D) as (B, count, L, D)."""
    return x.view(*x.shape[:2], count, -1).transpose(1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])


def rotate_half(x: Tensor) -> Tensor:
    x1, x2 = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    return torch.cat((-x2, x1), dim=-1)


def half_rope(x: Tensor, angles: Tensor) -> Tensor:
    table = torch.cat((angles, angles), -1)
    cos, sin = table.cos().to(x.dtype), table.sin().to(x.dtype)
    return x * cos + rotate_half(x) * sin


@spelling(ROWS, KEY_ROWS, KEY_ROWS, ANGLES, regions="query key")
def rope_half(q: Tensor, k: Tensor, v: Tensor, angles: Tensor) -> Tensor:
    q, k, v = heads(q, HEADS), heads(k, KEY_HEADS), heads(v, KEY_HEADS)
    return attend(half_rope(q, angles), half_rope(k, angles), v)


@spelling(ROWS, ROWS, ROWS, ANGLES, regions="query key")
def rope_chunks(q: Tensor, k: Tensor, v: Tensor, angles: Tensor) -> Tensor:
    """Halves are rotated one by one, before heads and positions are swapped."""

    def rope(x: Tensor) -> Tensor:
        a, b = x.view(BATCH, -1, HEADS, 2 * angles.shape[1]).chunk(2, dim=-1)
        cos, sin = angles.cos()[:, None].to(x.dtype), angles.sin()[:, None].to(x.dtype)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).transpose(1, 2)

    return attend(rope(q), rope(k), heads(v, HEADS))


@spelling((BATCH, "L", "3HD"), ANGLES, regions="query key")
def rope_interleaved_of_fused_projection(qkv: Tensor, angles: Tensor) -> Tensor:
    q, k, v = qkv.view(BATCH, -1, 3, HEADS, 2 * angles.shape[1]).permute(2, 0, 3, 1, 4).unbind(0)
    cos, sin = angles.cos().to(q.dtype), angles.sin().to(q.dtype)

    def rope(x: Tensor) -> Tensor:
        even, odd = x[..., ::2], x[..., 1::2]
        return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)

    return attend(rope(q), rope(k), v)


@spelling(ROWS, ROWS, ROWS, ANGLES, regions="query key")
def rope_every_two(q: Tensor, k: Tensor, v: Tensor, angles: Tensor) -> Tensor:
    """GPT-J's: neighbours are swapped, and each angle is repeated."""
    q, k, v = (heads(x, HEADS) for x in (q, k, v))
    cos, sin = (f.repeat_interleave(2, -1).to(q.dtype) for f in (angles.cos(), angles.sin()))

    def rope(x: Tensor) -> Tensor:
        turned = torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)
        return x * cos + turned * sin

    return attend(rope(q), rope(k), v)


@spelling(ROWS, ROWS, ROWS, ANGLES, regions="query key")
def rope_complex(q: Tensor, k: Tensor, v: Tensor, angles: Tensor) -> Tensor:
    turns = torch.polar(torch.ones_like(angles.float()), angles.float())

    def rope(x: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.float().reshape(BATCH, x.shape[1], HEADS, -1, 2))
        return torch.view_as_real(pairs * turns[None, :, None, :]).flatten(3).type_as(x).transpose(1, 2)

    return attend(rope(q), rope(k), heads(v, HEADS))


@spelling(ROWS, KEY_ROWS, KEY_ROWS, ("L", "D/4"), regions="query key")
def rope_partial(q: Tensor, k: Tensor, v: Tensor, angles: Tensor) -> Tensor:
    """The first half of each row is roped, the rest passes."""
    q, k, v = heads(q, HEADS), heads(k, KEY_HEADS), heads(v, KEY_HEADS)
    width = 2 * angles.shape[1]

    def rope(x: Tensor) -> Tensor:
        return torch.cat((half_rope(x[..., :width], angles), x[..., width:]), dim=-1)

    return attend(rope(q), rope(k), v)


@spelling(ROWS, ROWS, ROWS, ("L", "D/4"), ("L", "D/4"), regions="query key")
def rope_of_rows_and_columns(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Vision's: half of a row is turned by where its patch lies in height, half by where in width."""
    q, k, v = (heads(x, HEADS) for x in (q, k, v))

    def rope(x: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=-1)
        return torch.cat((half_rope(a, rows), half_rope(b, columns)), dim=-1)

    return attend(rope(q), rope(k), v)


@spelling(ROWS, KEY_ROWS, KEY_ROWS, ("D",), ("D",), ANGLES, regions="query key")
def rms_norm_then_rope(q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, angles: Tensor) -> Tensor:
    q, k, v = heads(q, HEADS), heads(k, KEY_HEADS), heads(v, KEY_HEADS)

    def norm(x: Tensor, weight: Tensor) -> Tensor:
        wide = x.float()
        return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)

    return attend(half_rope(norm(q, a), angles), half_rope(norm(k, b), angles), v)


@spelling(ROWS, ROWS, ROWS, ("D",), ("D",), regions="query key")
def layer_norm_of_heads(q: Tensor, k: Tensor, v: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    q, k, v = (heads(x, HEADS) for x in (q, k, v))
    shape = (q.shape[-1],)
    return attend(F.layer_norm(q, shape, weight, bias), F.layer_norm(k, shape), v)


@spelling(ROWS, ROWS, ROWS, ("D",), regions="query key")
def norms_by_name_and_by_hand(q: Tensor, k: Tensor, v: Tensor, weight: Tensor) -> Tensor:
    q, k, v = (heads(x, HEADS) for x in (q, k, v))
    centred = k - k.mean(-1, keepdim=True)
    k = centred / torch.sqrt(k.var(-1, keepdim=True, unbiased=False) + 1e-5)
    return attend(F.rms_norm(q, (q.shape[-1],), weight, 1e-5), k, v)


@spelling(ROWS, ROWS, ROWS, (HEADS, 1, 1), regions="query key")
def cosine_attention(q: Tensor, k: Tensor, v: Tensor, temperature: Tensor) -> Tensor:
    q, k, v = (heads(x, HEADS) for x in (q, k, v))
    return attend(F.normalize(q, dim=-1) * temperature.exp(), F.normalize(k, dim=-1), v)


@spelling(ROWS, ROWS, ROWS, ("HD",), regions="query key")
def norm_of_all_heads(q: Tensor, k: Tensor, v: Tensor, weight: Tensor) -> Tensor:
    """OLMo 2's: a row's sum goes over all heads and stays a tensor; factors move."""

    def norm(x: Tensor) -> Tensor:
        return weight * (x * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-6).to(x.dtype))

    return attend(heads(norm(q), HEADS), heads(norm(k), HEADS), heads(v, HEADS))


@spelling(ROWS, ROWS, ROWS, ("D",), (BATCH, "L", 1), regions="query value")
def factors(q: Tensor, k: Tensor, v: Tensor, channels: Tensor, rows: Tensor) -> Tensor:
    """Queries are scaled for each channel, values for each position and channel, as quantised ones are."""
    q, k, v = (heads(x, HEADS) for x in (q, k, v))
    return attend(q * channels * 0.5, k, v * channels * rows[:, None])


@spelling(ROWS, ROWS, ROWS, ROWS, regions="output")
def gate_of_merged_heads(q: Tensor, k: Tensor, v: Tensor, gate: Tensor) -> Tensor:
    """Qwen 3 Next's: the gate lies as the output does where its heads are merged."""
    out = attend(heads(q, HEADS), heads(k, HEADS), heads(v, HEADS))
    return out.transpose(1, 2).reshape(gate.shape).contiguous() * torch.sigmoid(gate)


@spelling(ROWS, KEY_ROWS, KEY_ROWS, (BATCH, "L", HEADS), ("D",), regions="output")
def gates_of_heads(q: Tensor, k: Tensor, v: Tensor, gate: Tensor, shift: Tensor) -> Tensor:
    """One gate a head and position; computed in f32 and rounded."""
    out = attend(heads(q, HEADS), heads(k, KEY_HEADS), heads(v, KEY_HEADS)).transpose(1, 2)
    gated = out.float() * F.silu(gate)[..., None] + shift
    return gated.to(q.dtype).flatten(2)


@spelling(ROWS, ROWS, ROWS, ROWS, ANGLES, ("D",), regions="query key value output")
def everything(q: Tensor, k: Tensor, v: Tensor, gate: Tensor, angles: Tensor, channels: Tensor) -> Tensor:
    q, k, v = (heads(x, HEADS) for x in (q, k, v))
    out = attend(half_rope(q, angles), half_rope(k, angles), v * channels)
    return (out * heads(gate, HEADS).tanh()).transpose(1, 2).flatten(2)
