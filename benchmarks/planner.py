"""How well the planner predicts, chooses and remembers on this CPU, each figure with its bar.

    python benchmarks/planner.py                      everything; about half an hour
    python benchmarks/planner.py --quick              a part of every group; some minutes
    python benchmarks/planner.py --only regret        one group; may be given more than once
    python benchmarks/planner.py --json FILE          also every raw time

Choices are judged on families of problems that no model was trained on, against all their candidates, measured beside
each other with one thread. Regret is how many times as long a choice takes as the best of them. The exit code is 1
where a bar is missed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks import grouped  # noqa: E402  the benchmark runs from a checkout
from benchmarks.planned import crossover_rows, feasibility_rows, planning_rows, regret_rows, tuning_rows  # noqa: E402

GROUPS: grouped.Groups = {
    "regret": regret_rows.regrets,
    "feasibility": feasibility_rows.feasibility,
    "crossovers": crossover_rows.crossovers,
    "tuning_time": tuning_rows.tuning_time,
    "planning": planning_rows.planning,
}


def main(argv: Sequence[str] | None = None) -> int:
    return grouped.main("planner", __doc__, GROUPS, argv)


if __name__ == "__main__":
    sys.exit(main())
