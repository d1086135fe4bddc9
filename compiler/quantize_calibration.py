"""`quantize="auto"`: schemes are tried at every site, and a search finds who takes which within the model's budget.

A kernel reads all heads of a site in one format, so a site is decided as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from ..cost_model.cpus import CPUS
from ..cost_model.quantization import EXACT, ROWS, Precision, Rates, Work, device_for, predicted_seconds, rates_of
from ..ir.diagnostics import CompileError
from ..passes.count_tiles import count_tiles
from .calibration import Candidates, SiteCalibration, Tools, Trial, timed
from .custom_op import Inputs, Runner
from .host_cpu import host_has_byte_dots
from .layouts import Results
from .precision_search import EVALUATIONS, Assignment, Found, Option, search

if TYPE_CHECKING:
    from .schemes import Scheme

AIM = 0.8
"""The part of `max_error` that the search spends on calibration inputs, since others may fare worse."""

UNCHANGED = "exact"
"""The name of the first trial of each site."""


def standard_schemes() -> Mapping[str, Scheme]:
    """What calibration tries, by the names that reports show."""
    from .schemes import scheme

    return {
        "int8": scheme("int8"),
        "int8, not smoothed": scheme("int8", smooth=False),
        "int8, rotated": scheme("int8", rotate="hadamard"),
        "fp8": scheme("fp8"),
        "kv8": scheme("kv8"),
        "kv4": scheme("kv4"),
        "kv2": scheme("kv2"),
    }


def precision_of(scheme: Scheme) -> Precision:
    """What the cost model knows of a scheme."""
    return Precision(
        scheme.query, scheme.key, scheme.value, scheme.smooth, bool(scheme.rotate), bool(scheme.rotate_values)
    )


@dataclass(frozen=True)
class QuantizeChoice:
    """The method of `quantize="auto"`: `schemes` by name, and how many assignments are evaluated at most.

    Where one scheme was `asked` for by name, as many sites take it as the budget lets, faster or not.
    """

    schemes: Mapping[str, Any] = field(default_factory=standard_schemes)
    most: int = EVALUATIONS
    asked: str = "quantize='auto'"
    always: bool = False

    @staticmethod
    def of(scheme: Scheme) -> QuantizeChoice:
        """The choice between a scheme and nothing."""
        return QuantizeChoice({scheme.name: scheme}, asked=f"quantize={scheme.name!r}", always=True)

    def candidates(self, tools: Tools) -> Candidates:
        return QuantizeCandidates(self.schemes, tools)

    def choose(self, sites: Sequence[SiteCalibration], budget: float, evaluate: Callable[[], float]) -> list[str]:
        """The fastest assignment by predicted time whose error end to end is within `AIM` of the budget."""
        names = [list(map(str, site.trials)) for site in sites]

        def take(assignment: Assignment) -> list[Trial]:
            taken = [known[number] for known, number in zip(names, assignment, strict=True)]
            for site, name in zip(sites, taken, strict=True):
                heads = len(site.trials[name].wrong)
                site.heads = (self.schemes[name],) * heads if name != UNCHANGED else None
                site.table[:] = _table(site, name)
            return [site.trials[name] for site, name in zip(sites, taken, strict=True)]

        def error_of(assignment: Assignment) -> float:
            take(assignment)
            return evaluate()

        options = [self._options(site) for site in sites]
        found = search(options, AIM * budget, error_of, self.most)
        trials = take(found.assignment)
        aim = f"max_error {budget:g}, of which calibration spends {AIM * budget:g} at most"
        if not found.noise <= AIM * budget:
            return [f"all sites stay exact: two exact runs of one batch differ by {found.noise:.3g} already; {aim}"]
        chosen = [known[number] for known, number in zip(names, found.assignment, strict=True) if number]
        if not chosen:
            which = "it fits none of them" if self.always else "nothing that is predicted to be faster fits"
            return [f"all {len(sites)} sites stay exact: {which}; {aim}"]
        counts = ", ".join(f"{chosen.count(name)} {name}" for name in dict.fromkeys(chosen))
        return [f"{len(chosen)} of {len(sites)} sites are not exact ({counts}); {aim}", *_told(found, trials)]

    def _options(self, site: SiteCalibration) -> list[Option]:
        """Error and time of exact attention, then of each scheme."""
        exact, *others = site.trials.values()
        times = [0.5 * exact.predicted if self.always else t.predicted for t in others]
        return [
            Option(0.0, exact.predicted), *(Option(t.error, time) for t, time in zip(others, times, strict=True))
        ]  # fmt: skip


def _table(site: SiteCalibration, taken: str) -> list[str]:
    """What the site takes, and what each candidate did there, the fastest by prediction first."""
    exact = site.trials[UNCHANGED]
    lines = ["stays exact" if taken == UNCHANGED else f"takes {taken} (all heads; a kernel reads one format)"]
    lines.append("candidate                error  predicted  measured")
    for name, trial in sorted(site.trials.items(), key=lambda item: item[1].share):
        lines.append(f"{trial.row(str(name))} {trial.times()}{'  taken' if name == taken else ''}")
    lines += [
        "error of this site's output; times as a share of exact attention's, predicted for "
        f"{device_for(site.target)} {1e3 * exact.predicted:.3g} ms and measured {1e3 * exact.seconds:.3g} ms"
    ]
    return lines + [f"{name} cannot run here: {reason}" for name, reason in site.refused.items()]


def _told(found: Found, trials: Sequence[Trial]) -> list[str]:
    """What was found, by the trials of what each site takes."""
    predicted = sum(t.predicted for t in trials) / sum(t.predicted_exact for t in trials)
    measured = sum(t.seconds for t in trials) / sum(t.exact_seconds for t in trials)
    return [
        f"the error of all outputs is {found.error:.3g} (relative L2, the worst tensor of the worst batch), after "
        f"{found.evaluations} assignments were evaluated{', the most there may be' if found.exhausted else ''}",
        f"the time of attention is predicted to be {100 * predicted:.1f} % of exact attention's, and measured as "
        f"{100 * measured:.1f} %; predictions decide, so that a choice can be repeated",
    ]


class QuantizeCandidates:
    """Schemes at one site, each with a kernel of its own."""

    def __init__(self, schemes: Mapping[str, Any], tools: Tools) -> None:
        self._schemes, self._tools = schemes, tools
        self._runners: dict[Any, Runner] = {}

    def _runner(self, scheme: Any) -> Runner:
        if scheme not in self._runners:
            self._runners[scheme] = self._tools.runner(scheme)
        return self._runners[scheme]

    def _work(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> Work:
        (batch, heads, queries, width), keys = q.shape, k.shape[2]
        live = self._live(queries, keys)
        return Work(batch * heads, batch * k.shape[1], queries, keys, width, v.shape[3], q.element_size(), live)

    def _live(self, queries: int, keys: int) -> float:
        """The part of all tiles that the mask leaves, as far as it says so without captured tensors."""
        mask = self._tools.program.attention.mask
        if mask.empty:
            return 1.0
        count = count_tiles(mask, queries, keys, ROWS, ROWS)
        return count.live / count.total

    def run(self, heads: Sequence[Any], inputs: Inputs, want_lse: bool) -> Results:
        return self._runner(heads[0])(*inputs, want_lse)

    def measure(self, site: SiteCalibration, inputs: Inputs) -> None:
        q, k, v, _ = inputs
        # The first call of a kernel compiles it.
        self._tools.exact(*inputs, False)
        exact_seconds, (wanted, _) = timed(q, lambda: self._tools.exact(*inputs, False))
        work, rates = self._work(q, k, v), _rates(self._tools.target)
        exact = predicted_seconds(work, EXACT, rates)
        site.trials.setdefault(UNCHANGED, _new_trial(k.shape[1])).add(
            wanted, wanted, exact_seconds, exact_seconds, exact, exact
        )
        for name, scheme in self._schemes.items():
            if name in site.refused:
                continue
            try:
                runner = self._runner(scheme)
                runner(*inputs, False)
            except CompileError as problem:
                site.refuse(name, problem.diagnostics[0].message)
                continue
            seconds, (found, _) = timed(q, lambda runner=runner: runner(*inputs, False))
            trial = site.trials.setdefault(name, _new_trial(k.shape[1]))
            predicted = predicted_seconds(work, precision_of(scheme), rates)
            trial.add(found, wanted, seconds, exact_seconds, predicted, exact)


def _new_trial(heads: int) -> Trial:
    return Trial(torch.zeros(heads, dtype=torch.float64), torch.zeros(heads, dtype=torch.float64))


def _rates(target: str) -> Rates:
    return rates_of(target, torch.get_num_threads(), integer_dots=target in CPUS and host_has_byte_dots(target))
