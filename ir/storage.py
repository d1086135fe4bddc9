"""How the numbers of q, k or v are kept in few bits: widths, packing, scales. Knows no operation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .attributes import (
    FALSE,
    TRUE,
    Attribute,
    DictAttr,
    FloatType,
    IntegerAttr,
    StringAttr,
    Type,
    bf16,
    f16,
    f32,
    i1,
    i8,
)
from .diagnostics import error

FLOATS: Mapping[str, Type] = {
    "f8E4M3FN": FloatType("f8E4M3FN"), "f8E5M2": FloatType("f8E5M2"), "f16": f16, "bf16": bf16, "f32": f32,
}  # fmt: skip
MAX_BITS, BYTE = 8, 8
AXES = ("channels", "tokens")
FIELDS = ("kind", "bits", "signed", "zero", "tokens", "channels", "heads", "axis", "block", "width")


@dataclass(frozen=True)
class Storage:
    """The format of a tensor that means (B, H, N, width): what is stored, and which numbers share a scale.

    `kind` is "int", or a float's MLIR name. Integers have 1 to 8 `bits`; codes are 0 .. 2^bits - 1, of `signed` ones
    -2^(bits-1) .. 2^(bits-1) - 1. The number behind a code is

        code * scale + zero        where it has a `zero`: the number that code 0 stands for
        code * scale               else

    Scales and zeros are tensors (B, H, G, C) with 1 in place of B and H unless each of the `heads` (of every batch)
    has its own, G = ceil(N / tokens) and C = ceil(width / channels); `tokens` and `channels` of 0 stand for "all share
    one". So tokens=1, channels=0 is a scale for each token, tokens=0, channels=1 one for each channel, and tokens=64,
    channels=1 that of KIVI's keys (arXiv 2402.02750).

    Integers below 8 bits are packed into bytes (an i8 tensor), signed ones as code + 2^(bits-1). A width is the sum of
    powers of two, its parts: 6 = 4 + 2, of which the first holds the lowest bits. Each part has its own bytes, in this
    order: along the `axis` "channels", ceil(width * part / 8) bytes w a token, in which channel d lies in byte d % w
    from bit part * (d // w) on; so a byte holds channels that lie far apart, and neighbours lie in neighbouring bytes.
    Along "tokens" each `block` of tokens, a multiple of 8, is packed in the same way: block * bits / 8 rows. A last
    block that is not full has all its rows.
    """

    kind: str = "int"
    bits: int = 8
    signed: bool = True
    zero: bool = False
    tokens: int = 1
    channels: int = 0
    heads: bool = True
    axis: str = "channels"
    block: int = 64
    width: int = 64

    def __post_init__(self) -> None:
        if self.kind not in ("int", *FLOATS):
            raise error(f"kind must be int, {', '.join(FLOATS)}, but is '{self.kind}'")
        if self.kind != "int" and (self.bits != self.element_bits or self.zero or self.axis != "channels"):
            raise error(
                f"{self.kind} must have {self.element_bits} bits, no zero and no packing along tokens, but is {self}"
            )
        if not 1 <= self.bits <= MAX_BITS and self.kind == "int":
            raise error(f"integers must have 1 to {MAX_BITS} bits, but have {self.bits}")
        if self.kind == "int" and self.bits == 1 and not self.zero:
            raise error("codes of one bit tell two numbers apart only beside a zero; expected zero=True")
        if min(self.tokens, self.channels) < 0 or self.width < 1:
            raise error(
                f"tokens and channels must not be negative and width must be positive, but are {self.tokens}, "
                f"{self.channels} and {self.width}"
            )
        if self.axis not in AXES:
            raise error(f"axis must be {' or '.join(AXES)}, but is '{self.axis}'")
        if self.axis == "tokens" and (self.block < BYTE or self.block % BYTE):
            raise error(f"a block of packed tokens must be a positive multiple of {BYTE}, but is {self.block}")

    @property
    def element(self) -> Type:
        """The element type of the stored tensor; integers of any width lie in bytes."""
        return i8 if self.kind == "int" else FLOATS[self.kind]

    @property
    def element_bits(self) -> int:
        if self.kind == "int":
            return BYTE
        element = FLOATS[self.kind]
        assert isinstance(element, FloatType)
        return element.width

    @property
    def packed(self) -> bool:
        """Whether several codes share a byte."""
        return self.kind == "int" and self.bits < BYTE

    @property
    def bias(self) -> int:
        """What is added to a code before it is packed; whole bytes hold their number as it is."""
        return 1 << (self.bits - 1) if self.signed and self.packed else 0

    @property
    def least(self) -> int:
        """The smallest code."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def greatest(self) -> int:
        return self.least + (1 << self.bits) - 1

    @property
    def parts(self) -> tuple[int, ...]:
        """The powers of two that make up the width in bits, from large to small."""
        return tuple(p for p in (8, 4, 2, 1) if self.bits & p)

    def part_bytes(self, part: int, count: int) -> int:
        """The bytes that one part of `count` neighbours takes."""
        return -(-count * part // BYTE)

    def packed_size(self, count: int) -> int:
        """The bytes of `count` packed neighbours along the axis."""
        return sum(self.part_bytes(p, count) for p in self.parts)

    @property
    def stored_width(self) -> int:
        """The last size of the stored tensor."""
        return self.packed_size(self.width) if self.packed and self.axis == "channels" else self.width

    def stored_tokens(self, tokens: int) -> int:
        """The size along positions of the stored tensor."""
        if not self.packed or self.axis == "channels":
            return tokens
        return -(-tokens // self.block) * self.packed_size(self.block)

    def scale_sizes(self, tokens: int) -> tuple[int, int]:
        """The last two sizes of scales and zeros."""
        groups = -(-tokens // self.tokens) if self.tokens else 1
        return groups, -(-self.width // self.channels) if self.channels else 1

    def bytes(self, tokens: int, heads: int, scale_bytes: int = 2) -> int:
        """What `tokens` of `heads` heads (of all batches) take, with their scales and zeros of `scale_bytes` each."""
        groups, channels = self.scale_sizes(tokens)
        codes = self.stored_tokens(tokens) * self.stored_width * self.element_bits // BYTE * heads
        return codes + groups * channels * (heads if self.heads else 1) * (2 if self.zero else 1) * scale_bytes

    def to_attr(self) -> DictAttr:
        def attribute(value: bool | int | str) -> Attribute:
            if isinstance(value, bool):
                return TRUE if value else FALSE
            return IntegerAttr(value) if isinstance(value, int) else StringAttr(value)

        return DictAttr.of({name: attribute(getattr(self, name)) for name in FIELDS})

    @staticmethod
    def from_attr(attribute: DictAttr) -> Storage:
        """The storage that `to_attr` wrote; CompileError on entries that are unknown or do not fit each other."""
        values: dict[str, bool | int | str] = {}
        for name, value in attribute.items:
            if name not in FIELDS or not isinstance(value, IntegerAttr | StringAttr):
                raise error(f"unknown entry of a storage: {name} = {value}; expected {', '.join(FIELDS)}")
            values[name] = bool(value.value) if isinstance(value, IntegerAttr) and value.type == i1 else value.value
            usual: object = getattr(DEFAULT, name)
            if type(values[name]) is not type(usual):
                raise error(f"'{name}' of a storage must be {type(usual).__name__}, but is {values[name]!r}")
        return Storage(**values)  # pyright: ignore[reportArgumentType]

    def __str__(self) -> str:
        """In words: `int4 + zero, a scale for 64 tokens of each channel`."""
        name = f"{'' if self.signed else 'u'}int{self.bits}" if self.kind == "int" else self.kind
        tokens = {0: "all tokens", 1: "each token"}.get(self.tokens, f"{self.tokens} tokens")
        channels = {0: "all channels", 1: "each channel"}.get(self.channels, f"{self.channels} channels")
        where = "" if self.axis == "channels" else f", packed along {self.block} tokens"
        heads = "" if self.heads else " of all heads"
        return f"{name}{' + zero' if self.zero else ''}, a scale for {tokens} x {channels}{heads}{where}"


DEFAULT = Storage()
