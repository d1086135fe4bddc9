"""Draws the survey of a mask: as text, and as PNG or SVG coloured by what a kernel does with each tile."""

from __future__ import annotations

import struct
import zlib
from itertools import groupby
from typing import Any

import numpy as np

from .mask_algebra import Mask
from .mask_survey import EMPTY, FULL, PARTIAL, Survey, kept_band

Array = np.ndarray[Any, np.dtype[Any]]
SIDE = 1024
"""The most pixels along one side; larger masks have several scores in a pixel."""

TEXT_SIDE = 64
"""The most characters in a line of the picture in text."""

KEPT = 3
"""Beside the classes of tiles: a score that is kept in a partial tile."""

COLOURS = {EMPTY: (255, 255, 255), PARTIAL: (253, 226, 190), FULL: (49, 104, 176), KEPT: (230, 120, 20)}
SIGNS = {EMPTY: ".", PARTIAL: "+", FULL: "#"}


def as_text(survey: Survey) -> str:
    """One character a tile, or for several where there are many: partial unless all are alike."""
    classes = survey.classes
    step = -(-max(classes.shape) // TEXT_SIDE)
    rows = [classes[i : i + step] for i in range(0, classes.shape[0], step)]
    return "\n".join(
        "".join(_sign(band[:, j : j + step]) for j in range(0, classes.shape[1], step)).rstrip() for band in rows
    )


def _sign(tiles: Array) -> str:
    return SIGNS[int(tiles.flat[0]) if (tiles == tiles.flat[0]).all() else PARTIAL]


def raster(survey: Survey, mask: Mask, head: int = 0) -> Array:
    """Pixels (rows of queries, columns of keys) of EMPTY, PARTIAL, FULL and KEPT.

    A pixel is one score, drawn larger where there are few, or several, of which it shows the most that is kept.
    """
    longest = max(survey.queries, survey.keys)
    step, zoom = -(-longest // SIDE), max(1, SIDE // 2 // longest)
    shape = tuple(-(-count // step) for count in (survey.queries, survey.keys))
    pixels = np.zeros(shape, np.uint8)
    # In this order a larger one wins where scores of several kinds share a pixel.
    ranks = {EMPTY: 0, PARTIAL: 1, KEPT: 2, FULL: 3}
    table = np.array([ranks[EMPTY], ranks[PARTIAL], ranks[FULL]], np.uint8)
    columns = np.arange(survey.keys) // survey.blocks[1]
    for row, first in enumerate(range(0, survey.queries, step)):
        end = min(first + step, survey.queries)
        classes = survey.classes[np.arange(first, end) // survey.blocks[0]][:, columns]
        kept = kept_band(mask, first, end, survey.keys, head)
        seen = np.where((classes == PARTIAL) & kept, np.uint8(ranks[KEPT]), table[classes])
        pixels[row] = np.maximum.reduceat(seen.max(0), np.arange(0, survey.keys, step))
    kinds = np.array(sorted(ranks, key=lambda kind: ranks[kind]), np.uint8)
    return np.kron(kinds[pixels], np.ones((zoom, zoom), np.uint8))


def as_png(pixels: Array) -> bytes:
    """A picture with one byte a pixel and a palette."""
    height, width = pixels.shape
    palette = b"".join(bytes(COLOURS[kind]) for kind in sorted(COLOURS))
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels], axis=1)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        (b"PLTE", palette),
        (b"IDAT", zlib.compress(rows.tobytes(), 9)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in chunks)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def as_svg(pixels: Array, title: str) -> str:
    """The same picture of one path for each colour, with `title` for those who cannot see it."""
    height, width = pixels.shape
    paths: dict[int, list[str]] = {kind: [] for kind in COLOURS if kind != EMPTY}
    top = 0
    for line, same in groupby(map(bytes, pixels)):
        rows, left = len(list(same)), 0
        for kind, run in groupby(line):
            length = len(list(run))
            if kind != EMPTY:
                paths[kind].append(f"M{left} {top}h{length}v{rows}h-{length}z")
            left += length
        top += rows
    escaped = title.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    drawn = "\n".join(f'<path fill="#{bytes(COLOURS[k]).hex()}" d="{"".join(d)}"/>' for k, d in paths.items() if d)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'shape-rendering="crispEdges">\n<title>{escaped}</title>\n'
        f'<rect width="{width}" height="{height}" fill="#{bytes(COLOURS[EMPTY]).hex()}"/>\n{drawn}\n</svg>\n'
    )
