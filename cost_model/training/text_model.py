"""A model that reads kernels as words of tile IR, in PyTorch: registers, spills, loops and time from the text alone.

Words (`cost_model/tokens.py`) are embedded by their operation and elements, and by the logarithms of their sizes, which
need no vocabulary; convolutions see their neighbours, and pools the whole kernel. Words such as `keys=1024` ahead of
the kernel tell of the device and of a call.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ..tokens import CLOSE, OPEN
from .ensemble import answer_scale, falling, loss_of, reproducible, worth_of
from .samples import Array, Places, Samples, numbered

Words = tuple[str, ...]

ELEMENTS = ("", "index", "i1", "i8", "i32", "i64", "f8E4M3FN", "f8E5M2", "f16", "bf16", "f32")
NUMBERS = 7
"""Numbers of one word."""

DILATIONS = (1, 2, 4)
"""Distances of the neighbours that each convolution sees."""

_TYPE = re.compile(r"((?:(?:\d+|\?)x)*)([a-z]\w*)")


@dataclass(frozen=True)
class TextSettings:
    """`epochs` over all samples in batches of about `batch`, at a `rate` that falls to 0; vectors of `width`."""

    kinds: tuple[str, ...]
    width: int = 32
    epochs: int = 12
    batch: int = 64
    rate: float = 4e-3
    decay: float = 1e-2
    within: float = 2.0
    best: float = 2.0
    outlier: float = 1.5
    seed: int = 0


@dataclass(frozen=True)
class Encoded:
    """A text as numbers: operations and elements by their place in the vocabularies, (words, `NUMBERS`) of sizes; what
    stands ahead of the kernel as places and values."""

    operations: torch.Tensor
    elements: torch.Tensor
    numbers: torch.Tensor
    heads: torch.Tensor
    values: torch.Tensor

    def __len__(self) -> int:
        return len(self.operations)


class Vocabulary:
    """The operations of the texts that a model is trained on, 0 for all others."""

    def __init__(self, texts: Sequence[Words]) -> None:
        self.operations: dict[str, int] = {}
        self.heads: dict[str, int] = {}
        for word in dict.fromkeys(word for text in texts for word in text):
            if "=" in word:
                self.heads.setdefault(_head(word)[0], len(self.heads) + 1)
            else:
                self.operations.setdefault(word.partition(":")[0], len(self.operations) + 1)

    def encoded(self, text: Words) -> Encoded:
        heads = [_head(word) for word in text if "=" in word]
        warps = max([2.0**value for name, value in heads if name == "num_warps"], default=1.0)
        operations, elements, numbers = list[int](), list[tuple[int, int]](), list[tuple[float, ...]]()
        depth = 0
        for word in text:
            if "=" in word or not _about_tiles(word):
                continue
            depth += (word == OPEN) - (word == CLOSE)
            name, result, operand = (*word.split(":"), "", "")[:3]
            (x, element), (y, other) = _sizes(result), _sizes(operand)
            operations.append(self.operations.get(name, 0))
            elements.append((element, other))
            numbers.append((depth / 2, *x, *y, x[0] - math.log2(32 * warps) / 4, x[0] - y[0]))
        return Encoded(
            torch.tensor(operations),
            torch.tensor(elements),
            torch.tensor(numbers, dtype=torch.float32),
            torch.tensor([self.heads.get(name, 0) for name, _ in heads], dtype=torch.int64),
            torch.tensor([value for _, value in heads], dtype=torch.float32),
        )


def _head(word: str) -> tuple[str, float]:
    """A word such as `keys=1024` as a name and a value: a logarithm. What is no number is part of the name."""
    name, _, value = word.partition("=")
    try:
        number = float(value)
    except ValueError:
        return word, 1.0
    return name, math.log2(number) if number > 0 else 0.0


def _about_tiles(word: str) -> bool:
    """Whether more than a scalar position is computed, which takes no time."""
    name, *types = word.split(":")
    return not types or name.startswith("scf.") or any("x" in t and t != "index" for t in types)


def _sizes(type_: str) -> tuple[tuple[float, float], int]:
    """The logarithms of all elements and of the last axis, in fours, and the place of the element type."""
    found = _TYPE.fullmatch(type_)
    if found is None:
        return (0.0, 0.0), 0
    sizes = [int(n) for n in found[1].split("x") if n.isdecimal()]
    element = ELEMENTS.index(found[2]) if found[2] in ELEMENTS else 0
    return (math.log2(math.prod(sizes)) / 4, math.log2(sizes[-1]) / 4 if sizes else 0.0), element


@dataclass(frozen=True)
class Batch:
    """Texts of like length, padded; `mask` is 1 where words are."""

    operations: torch.Tensor
    elements: torch.Tensor
    numbers: torch.Tensor
    heads: torch.Tensor
    values: torch.Tensor
    mask: torch.Tensor

    @staticmethod
    def of(texts: Sequence[Encoded]) -> Batch:
        def padded(parts: Sequence[torch.Tensor]) -> torch.Tensor:
            return nn.utils.rnn.pad_sequence(list(parts), batch_first=True)

        return Batch(
            padded([t.operations for t in texts]),
            padded([t.elements for t in texts]),
            padded([t.numbers for t in texts]),
            padded([t.heads for t in texts]),
            padded([t.values for t in texts]),
            padded([torch.ones(len(t)) for t in texts]),
        )


class Reader(nn.Module):
    """From a batch of texts to answers (texts, outputs), standardised."""

    def __init__(self, operations: int, heads: int, outputs: int, width: int) -> None:
        super().__init__()
        self.operation, self.head = nn.Embedding(operations + 1, width), nn.Embedding(heads + 1, 2 * width)
        self.result, self.operand = nn.Embedding(len(ELEMENTS), width), nn.Embedding(len(ELEMENTS), width)
        self.number = nn.Linear(NUMBERS, width)
        self.mixed = nn.Linear(width, width)
        self.around = nn.ModuleList(nn.Conv1d(width, width, 3, dilation=d, padding=d) for d in DILATIONS)
        self.first, self.last = nn.Linear(4 * width, 2 * width), nn.Linear(2 * width, outputs)

    def forward(self, x: Batch) -> torch.Tensor:
        plain, scaled = self.head(x.heads).chunk(2, -1)
        ahead = (plain + scaled * x.values[..., None] / 8).sum(1)
        word = self.operation(x.operations) + self.result(x.elements[..., 0]) + self.operand(x.elements[..., 1])
        word = nn.functional.silu(word + self.number(x.numbers) + ahead[:, None])
        mask = x.mask[..., None]
        word = self.mixed(word) * mask
        for around in self.around:
            word = word + nn.functional.silu(around(word.transpose(1, 2)).transpose(1, 2)) * mask
        hidden = word.masked_fill(mask == 0, -torch.inf)
        # Costs of words add up: a sum of exponentials, whose logarithm is like the answers.
        pools = (hidden.logsumexp(1), hidden.amax(1), word.sum(1) / mask.sum(1), ahead)
        return self.last(nn.functional.silu(self.first(torch.cat(pools, -1))))


@dataclass(frozen=True)
class TextModel:
    """A trained reader."""

    vocabulary: Vocabulary
    reader: Reader
    center: Array
    scale: Array

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.reader.parameters())

    def answers(self, texts: Sequence[Words], batch: int = 64) -> Array:
        """(texts, outputs)"""
        encoded = [self.vocabulary.encoded(text) for text in texts]
        order = sorted(range(len(texts)), key=lambda i: len(encoded[i]))
        found = np.zeros((len(texts), len(self.center)))
        with torch.no_grad():
            for start in range(0, len(order), batch):
                places = order[start : start + batch]
                found[places] = self.reader(Batch.of([encoded[i] for i in places])).numpy()
        return found * self.scale + self.center


def fit_text(texts: Sequence[Words], samples: Samples, settings: TextSettings) -> TextModel:
    """The model trained on `samples`, of which `texts` are the words."""
    vocabulary = Vocabulary(texts)
    center, scale = answer_scale(samples.answers, settings.kinds)
    with reproducible(settings.seed) as generator:
        torch.manual_seed(settings.seed)  # pyright: ignore[reportUnknownMemberType]
        reader = Reader(len(vocabulary.operations), len(vocabulary.heads), len(center), settings.width)
        encoded = [vocabulary.encoded(text) for text in texts]
        _train(reader, encoded, samples, (samples.answers - center) / scale, settings, generator)
    return TextModel(vocabulary, reader, center, scale)


def _train(
    reader: Reader,
    encoded: Sequence[Encoded],
    samples: Samples,
    answers: Array,
    settings: TextSettings,
    generator: torch.Generator,
) -> None:
    problems = numbered(list(samples.problems))
    worth = torch.tensor(worth_of(samples, problems, settings.best), dtype=torch.float32)
    target = torch.tensor(np.nan_to_num(answers), dtype=torch.float32)
    known = torch.tensor(np.isfinite(answers), dtype=torch.float32)
    batches = list(_batches(encoded, problems, settings.batch))
    ready = [Batch.of([encoded[i] for i in places]) for places in batches]
    optimizer = torch.optim.AdamW(reader.parameters(), lr=settings.rate, weight_decay=settings.decay)
    orders = [torch.randperm(len(batches), generator=generator).numpy() for _ in range(settings.epochs)]
    order = np.concatenate(orders)
    for step, number in enumerate(order.tolist()):
        places = batches[int(number)]
        for group in optimizer.param_groups:
            group["lr"] = settings.rate * falling(step / len(order))
        optimizer.zero_grad()
        found = reader(ready[int(number)])[None]
        loss = loss_of(found, target[places], known[places], worth[places], problems[places], settings)
        loss.backward()  # pyright: ignore[reportUnknownMemberType]
        nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
        optimizer.step()  # pyright: ignore[reportUnknownMemberType]


def _batches(encoded: Sequence[Encoded], problems: Places, size: int) -> Iterator[list[int]]:
    """Places of the samples in batches of about `size`: whole problems, of like length."""
    members: Mapping[int, list[int]] = {int(n): [] for n in problems}
    for place, number in enumerate(problems):
        members[int(number)].append(place)
    groups = sorted(members.values(), key=lambda places: (max(len(encoded[i]) for i in places), places))
    batch: list[int] = []
    for places in groups:
        if batch and len(batch) + len(places) > size:
            yield batch
            batch = []
        batch = batch + places
    yield batch
