"""`attir mask show`: what a mask of attir.masks keeps, as numbers, as text and as a picture."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..ir.diagnostics import error
from .dump import check_directory, write_whole

if TYPE_CHECKING:
    from .mask_algebra import Mask
    from .mask_survey import Survey

ENDINGS = (".png", ".svg")
USUAL_SIZE, MOST = 1024, 1 << 14
"""How many tokens are shown where neither the options nor the mask say it, and at most."""

KINDS = {
    "bounds": "one range of keys for each tile of queries, in closed form",
    "pieces": "up to three ranges of keys for each tile of queries, in closed form",
    "tiles": "a test of each tile decides whether it is computed",
    "opaque": "no tile can be told from another",
}
"""What kernels do with each kind of structure."""


def run(argv: Sequence[str]) -> int:
    """`attir mask` of the command line."""
    parser = argparse.ArgumentParser(prog="attir mask", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    show = commands.add_parser("show", help="count and draw a mask", allow_abbrev=False)
    add = show.add_argument
    add("expression", metavar="EXPRESSION", help="masks of attir.masks with &, | and ~: 'causal & window(128)'")
    add("--size", type=_positive, metavar="N", help="how many queries and keys there are")
    add("--queries", type=_positive, metavar="M", help="how many queries there are, if not as many as keys")
    add("--keys", type=_positive, metavar="N", help="how many keys there are, if not as many as queries")
    add("--block", type=_blocks, default=(64, 64), metavar="M[xN]", help="queries and keys of a tile (64x64)")
    add("--head", type=_index, default=0, metavar="H", help="the head to show, where heads differ (0)")
    add("--output", "-o", metavar="FILE", help="draw the mask into FILE.png or FILE.svg")
    return _show(show.parse_args(argv[1:]) if argv[:1] == ["show"] else parser.parse_args(argv))


def _positive(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= MOST:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to {MOST}, but it is '{text}'")
    return int(text)


def _index(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 on, but it is '{text}'")
    return int(text)


def _blocks(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    blocks = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if min(blocks) < 1:
        raise argparse.ArgumentTypeError(f"expected the size of a tile such as 64 or 64x32, but it is '{text}'")
    return blocks


def _show(arguments: argparse.Namespace) -> int:
    output = _output(arguments.output)
    from .mask_expression import parse_mask
    from .mask_picture import as_text
    from .mask_survey import MOST_TILES, survey

    mask = parse_mask(arguments.expression)
    queries, keys = _sizes(arguments, mask)
    heads = next((need.size for need in mask.all_needs if need.name == "heads"), arguments.head + 1)
    if arguments.head >= heads:
        raise error(f"--head {arguments.head} is not among the {heads} heads of {mask}, counted from 0")
    blocks: tuple[int, int] = arguments.block
    tiles = -(-queries // blocks[0]) * -(-keys // blocks[1])
    if tiles > MOST_TILES:
        raise error(f"{tiles} tiles are more than the {MOST_TILES} that are looked at; make them larger with --block")
    found = survey(mask, queries, keys, blocks, arguments.head, heads)
    drawn = _draw(found, mask, arguments.head, output) if output is not None else []
    print("\n".join([*_told(found, mask), "", as_text(found), *drawn]))
    return 0


def _output(name: str | None) -> Path | None:
    """Where to draw, checked before anything is computed."""
    if name is None:
        return None
    path = Path(name)
    if path.suffix not in ENDINGS:
        raise error(f"a picture is written as {' or '.join(ENDINGS)}, but --output is '{name}'")
    check_directory(path.parent)
    if path.is_dir():
        raise error(f"cannot write {path}: it is a directory")
    return path


def _sizes(arguments: argparse.Namespace, mask: Mask) -> tuple[int, int]:
    """Queries and keys: as the options say, else what the mask was made for."""
    made_for = {need.name: need.size for need in mask.all_needs}
    queries: int = arguments.queries or arguments.size or made_for.get("queries") or arguments.keys or USUAL_SIZE
    keys: int = arguments.keys or arguments.size or made_for.get("keys") or queries
    if max(queries, keys) > MOST:
        raise error(f"{mask} is for {queries} queries and {keys} keys, but at most {MOST} can be shown")
    return queries, keys


def _told(found: Survey, mask: Mask) -> list[str]:
    """The numbers, one line for each."""
    from .mask_survey import EMPTY, FULL, PARTIAL

    kept, scores = int(found.kept.sum()), found.queries * found.keys
    tiles, blocks = found.classes.size, "x".join(map(str, found.blocks))
    live = tiles - found.count(EMPTY)
    told = f"{live} of {tiles} computed ({blocks}): {found.count(FULL)} full, {found.count(PARTIAL)} partial"
    needed, whole = int((found.kept > 0).sum()), int((found.kept == found.areas).sum())
    loose = [f"{needed} hold a kept score"] if needed < live else []
    loose += [f"{whole} keep all"] if whole > found.count(FULL) else []
    empty_rows = int((found.kept_rows == 0).sum())
    least, most = int(found.kept_rows.min()), int(found.kept_rows.max())
    return [
        f"mask       {mask}",
        f"kept       {kept} of {scores} scores ({100 * kept / scores:.1f} %), {least} to {most} keys a query",
        f"tiles      {told}" + (f"; {' and '.join(loose)}" if loose else ""),
        f"work       {100 * live / tiles:.1f} % of all tiles",
        f"structure  {found.plan.kind}: {KINDS[found.plan.kind]}",
        *([f"           {_bounds(found)}"] if _bounds(found) else []),
        *([f"rows       {empty_rows} queries keep no key and give zeros"] if empty_rows else []),
    ]


def _bounds(found: Survey) -> str:
    """What is known of all kept keys: `m - 127 ≤ n ≤ m`."""
    structure = found.plan.structure
    lows = [_moved("m", structure.lower), *([str(structure.first)] if structure.first else [])]
    highs = [_moved("m", structure.upper), *([str(structure.last)] if structure.last is not None else [])]
    low, high = (", ".join(x for x in side if x) for side in (lows, highs))
    return f"{f'{low} ≤ ' if low else ''}n{f' ≤ {high}' if high else ''}" if low or high else ""


def _moved(position: str, by: int | None) -> str:
    return "" if by is None else position if by == 0 else f"{position} {'-' if by < 0 else '+'} {abs(by)}"


def _draw(found: Survey, mask: Mask, head: int, path: Path) -> list[str]:
    from .mask_picture import as_png, as_svg, raster

    pixels = raster(found, mask, head)
    write_whole(path, as_png(pixels) if path.suffix == ".png" else as_svg(pixels, str(mask)))
    size = f"{pixels.shape[1]} x {pixels.shape[0]}"
    return ["", f"wrote {path} ({size}): full tiles blue, partial ones orange, kept scores in them dark"]
