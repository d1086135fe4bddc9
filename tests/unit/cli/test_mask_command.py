"""`attir mask show`: what it says, what it draws, and one message for each wrong input."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from unit.cli.command_line import Attir

from attir import masks
from attir.compiler.mask_picture import COLOURS, KEPT, raster
from attir.compiler.mask_survey import EMPTY, FULL, PARTIAL, survey

WINDOW = """\
mask       causal() & window(128)
kept       122944 of 1048576 scores (11.7 %), 1 to 128 keys a query
tiles      45 of 256 computed (64x64): 15 full, 30 partial
work       17.6 % of all tiles
structure  bounds: one range of keys for each tile of queries, in closed form
           m - 127 ≤ n ≤ m

+...............
#+..............
+#+.............
.+#+............
"""


def read_png(data: bytes) -> np.ndarray[Any, Any]:
    """The colours of a picture as (rows, columns, 3), every chunk checked."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, place = dict[bytes, bytes](), 8
    while place < len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        name, body = data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        assert struct.unpack(">I", data[place + 8 + length : place + 12 + length]) == (zlib.crc32(name + body),)
        chunks[name], place = body, place + 12 + length
    width, height, depth, kind, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert (depth, kind, rest) == (8, 3, [0, 0, 0]) and list(chunks)[-1] == b"IEND"
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, width + 1)
    assert not rows[:, 0].any()
    return np.frombuffer(chunks[b"PLTE"], np.uint8).reshape(-1, 3)[rows[:, 1:]]


def read_svg(text: str) -> np.ndarray[Any, Any]:
    """The same of an SVG, by filling its rectangles."""
    size = re.search(r'viewBox="0 0 (\d+) (\d+)"', text)
    assert size is not None
    picture = np.full((int(size[2]), int(size[1]), 3), 255, np.uint8)
    for colour, path in re.findall(r'<path fill="#(\w{6})" d="([^"]*)"', text):
        for x, y, width, height, back in re.findall(r"M(\d+) (\d+)h(\d+)v(\d+)h-(\d+)z", path):
            assert width == back
            picture[int(y) : int(y) + int(height), int(x) : int(x) + int(width)] = list(bytes.fromhex(colour))
    return picture


def test_what_is_said(attir: Attir) -> None:
    shown = attir("mask", "show", "causal & window(128)", "--size", "1024")
    assert shown.code == 0 and shown.err == ""
    assert shown.out.startswith(WINDOW)
    assert len(shown.out.splitlines()) == 7 + 16


def test_sizes_of_their_own_and_tiles_at_the_ends(attir: Attir) -> None:
    shown = attir("mask", "show", "prefix(70)", "--queries", "50", "--keys", "200", "--block", "32x64")
    assert "kept       3500 of 10000 scores (35.0 %), 70 to 70 keys a query" in shown.out
    assert "tiles      4 of 8 computed (32x64): 2 full, 2 partial" in shown.out
    assert shown.out.endswith("\n#+..\n#+..\n")


def test_a_mask_that_was_made_for_a_size_is_shown_at_it(attir: Attir) -> None:
    shown = attir("mask", "show", "neighborhood((16, 12), (5, 3))", "--block", "12")
    assert "kept       2880 of 36864 scores (7.8 %), 15 to 15 keys a query" in shown.out
    assert "80 of 256 computed (12x12): 0 full, 80 partial" in shown.out
    assert "of 49 scores" in attir("mask", "show", "document(lengths=[3, 4]) | causal").out


def test_heads_differ(attir: Attir) -> None:
    pictures = [attir("mask", "show", "strided_shards(2)", "--size=512", "--head", head).out for head in "01"]
    assert pictures[0] != pictures[1]


def test_rows_without_keys_and_loose_tiles_are_said(attir: Attir) -> None:
    shown = attir("mask", "show", "causal & ~window(3)", "--size", "64")
    assert "rows       3 queries keep no key and give zeros" in shown.out
    shown = attir("mask", "show", "dilated(8, 64)", "--block", "32")
    assert re.search(r"400 of 1024 computed .*; 368 hold a kept score", shown.out)


@pytest.mark.parametrize("ending", ["png", "svg"])
@pytest.mark.parametrize(("size", "block"), [(70, 16), (600, 64)])
def test_pictures_show_classes_and_kept_scores(
    attir: Attir, tmp_path: Path, ending: str, size: int, block: int
) -> None:
    path = tmp_path / "new" / f"mask.{ending}"
    options = (f"--size={size}", f"--block={block}", f"--output={path}")
    shown = attir("mask", "show", "causal & window(50) | prefix(3)", *options)
    assert shown.code == 0 and shown.out.splitlines()[-1].startswith(f"wrote {path} (")
    picture = read_png(path.read_bytes()) if ending == "png" else read_svg(path.read_text())
    kept = (masks.causal() & masks.window(50) | masks.prefix(3)).dense(size, size).numpy()
    zoom = len(picture) // size
    assert picture.shape == (zoom * size, zoom * size, 3) and len(picture) > 256
    for i in range(0, size, block):
        for j in range(0, size, block):
            tile = kept[i : i + block, j : j + block]
            colours = np.where(tile[..., None], COLOURS[KEPT], COLOURS[PARTIAL])
            colours = colours if tile.any() and not tile.all() else COLOURS[FULL if tile.all() else EMPTY]
            drawn = picture[zoom * i : zoom * (i + block), zoom * j : zoom * (j + block)]
            for first in (0, zoom - 1):
                assert (drawn[first::zoom, first::zoom] == colours).all()


def test_both_formats_draw_the_same(attir: Attir, tmp_path: Path) -> None:
    files = [tmp_path / "mask.png", tmp_path / "mask.svg"]
    for file in files:
        attir("mask", "show", "neighborhood((8, 12), (3, 5), dilation=2)", "--block=8", "-o", str(file))
    np.testing.assert_array_equal(read_png(files[0].read_bytes()), read_svg(files[1].read_text()))
    assert "<title>neighborhood((8, 12), (3, 5), dilation=(2, 2))</title>" in files[1].read_text()


def test_pixels_of_several_scores_show_what_is_kept() -> None:
    mask = masks.causal() & masks.window(1)
    pixels = raster(survey(mask, 3000, 3000, (64, 64)), mask)
    assert pixels.shape == (1000, 1000)
    np.testing.assert_array_equal(pixels == KEPT, np.eye(1000, dtype=bool))


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("cauzal", "there is no mask 'cauzal'; did you mean 'causal'?"),
        ("xyz(3)", "there is no mask 'xyz'; there are causal, window, "),
        ("window", "window: missing a required argument: 'left'; expected window(left, right=None)"),
        ("window(1, 2, 3)", "window: too many positional arguments; expected window(left, right=None)"),
        ("window(width=3)", "expected window(left, right=None)"),
        ("window(0)", "window: left must be at least 1, but is 0"),
        ("window(1.5)", "window: left must be a whole number, but is 1.5"),
        ("prefix('a')", "prefix: length must be a whole number, but is 'a'"),
        ("causal and window(3)", "masks combine with &, | and ~, not with 'and', 'or' and 'not'"),
        ("not causal", "not with 'and', 'or' and 'not'"),
        ("causal &", "cannot read the mask 'causal &': invalid syntax"),
        ("", "cannot read the mask '': "),
        ("3", "expected a mask such as window(128), but '3' is none"),
        ("causal + window(3)", "but 'causal + window(3)' is none"),
        ("window(causal)", "expected a number or a list of numbers, but 'causal' is neither"),
        ("window(2 ** 99)", "but '2 ** 99' is neither"),
        ("__import__('os')", "there is no mask '__import__'"),
        ("masks.causal()", "but 'masks.causal()' is none"),
        ("window(**{})", "'**' is not understood"),
        ("document([1, 2])", "document: ids must be a tensor of integers, but is [1, 2]"),
        ("neighborhood((4, 4), 9)", "neighborhood: a window of 9 does not fit axis 0 of 4 cells"),
        ("neighborhood((400, 400), 9)", "is for 160000 queries and 160000 keys, but at most 16384 can be shown"),
    ],
)
def test_wrong_expressions(attir: Attir, expression: str, message: str) -> None:
    assert message in attir("mask", "show", expression).error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--output", "mask.jpg"], "a picture is written as .png or .svg, but --output is 'mask.jpg'"),
        (["--head", "4"], "--head 4 is not among the 4 heads of strided_shards(4, 64, 1, 4), counted from 0"),
        (["--size", "16384", "--block", "1"], "268435456 tiles are more than the 131072 that are looked at"),
    ],
)
def test_wrong_options(attir: Attir, options: list[str], message: str) -> None:
    assert message in attir("mask", "show", "strided_shards(4)", *options).error


def test_places_that_cannot_be_written(attir: Attir, tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    (tmp_path / "file").write_text("")
    assert "it is a directory" in attir("mask", "show", "causal", "-o", str(tmp_path / "a.png")).error
    assert "file is not a directory" in attir("mask", "show", "causal", "-o", str(tmp_path / "file" / "a.png")).error


@pytest.mark.parametrize(
    "options",
    [
        ["--size", "0"], ["--size", "-3"], ["--size", "x"], ["--keys", "99999"], ["--queries", "1.5"],
        ["--block", "0"], ["--block", "64x"], ["--head", "-1"], ["--sice", "3"],
    ],
)  # fmt: skip
def test_wrong_usage(attir: Attir, options: list[str]) -> None:
    shown = attir("mask", "show", "causal", *options)
    assert shown.code == 2 and shown.out == "" and "usage: attir mask show" in shown.err
    assert "error: " in shown.err


def test_a_size_that_the_mask_was_not_made_for(attir: Attir) -> None:
    shown = attir("mask", "show", "tree([-1, 0, 0])", "--size", "9")
    assert shown.error == "error: tree([-1, 0, 0]) is for 3 queries, but there are 9"


def test_a_command_is_needed(attir: Attir) -> None:
    assert attir("mask").code == 2
    assert attir("mask", "draw", "causal").code == 2
    assert attir("mask", "--help").code == 0
    assert "a whole number" not in attir("mask", "show", "--help").err
