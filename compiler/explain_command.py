"""`attir explain`: what happens to each attention of a target, and why."""

from __future__ import annotations

from collections.abc import Sequence

from .compile_command import DEVICES, HERE, Capture, argument_parser, default_target


def run(argv: Sequence[str]) -> int:
    """Print the report for a target; 1 if an attention was refused, else 0."""
    parser = argument_parser("attir explain", __doc__)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--target", choices=DEVICES, help=f"plan for this device ({HERE})")
    arguments = parser.parse_args(argv)
    backend, _, _ = Capture(arguments, executes=False, target_device=arguments.target or default_target()).run()
    print(backend.report.to_json() if arguments.json else backend.report)
    return 1 if backend.report.refused else 0
