"""`attir explain`: what happens to each attention of a target, and why."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from .compile_command import DEVICES, HERE, Capture, argument_parser, default_target


def run(argv: Sequence[str]) -> int:
    """Print the report for a target; 1 if an attention was refused, else 0."""
    parser = argument_parser("attir explain", __doc__)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument(
        "--costs", nargs="?", const="", metavar="DEVICE", help="what the cost model says of each site, term by term"
    )
    parser.add_argument("--cache", action="store_true", help="what the tuning cache has for each site, and why not")
    parser.add_argument("--target", choices=DEVICES, help=f"plan for this device ({HERE})")
    arguments = parser.parse_args(argv)
    if arguments.costs is not None:
        return _print_costs(arguments)
    if arguments.cache:
        return _print_lookups(arguments)
    from .without_running import kernels_for

    target = arguments.target or default_target()
    compile_site = kernels_for(target, kept=True)
    backend, _, _ = Capture(arguments, executes=False, target_device=target, compile_site=compile_site).run()
    print(backend.report.to_json() if arguments.json else backend.report)
    return 1 if backend.report.refused else 0


def _print_costs(arguments: argparse.Namespace) -> int:
    """Print the costs of every site that gets a kernel, on a device that kernels for the target run on."""
    from .costs import CostRecorder, check_place
    from .without_running import kernels_for

    target = arguments.target or default_target()
    check_place(target, arguments.costs)
    recorder = CostRecorder(kernels_for(target), arguments.costs)
    backend, _, _ = Capture(arguments, executes=False, target_device=target, compile_site=recorder).run()
    print("\n".join(map(str, recorder.found)) or "no attention got a kernel")
    return 1 if backend.report.refused else 0


def _print_lookups(arguments: argparse.Namespace) -> int:
    """Print what the tuning cache has for every site that gets a kernel, each with its reason."""
    from .site_lookups import LookupRecorder
    from .without_running import kernels_for

    target = arguments.target or default_target()
    recorder = LookupRecorder(kernels_for(target), target)
    backend, _, _ = Capture(arguments, executes=False, target_device=target, compile_site=recorder).run()
    print(json.dumps(recorder.lines, indent=1) if arguments.json else "\n".join(recorder.lines))
    return 1 if backend.report.refused else 0
