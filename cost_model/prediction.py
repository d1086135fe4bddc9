"""What the cost model says of one candidate: seconds, term by term, and how sure it is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Term:
    """One part of an estimate: `amount` of `unit` (such as 1.3e9 FLOP), which take `seconds`.

    A `hidden` term runs beside a longer one: it is shown, and no part of the sum.
    """

    name: str
    seconds: float
    amount: float = 0.0
    unit: str = ""
    hidden: bool = False


@dataclass(frozen=True)
class Estimate:
    """The analytical model's answer for one candidate."""

    terms: tuple[Term, ...]

    @property
    def seconds(self) -> float:
        """Of one call."""
        return sum(term.seconds for term in self.terms if not term.hidden)

    def term(self, name: str) -> Term:
        """The term called `name`, nothing where there is none."""
        return next((term for term in self.terms if term.name == name), Term(name, 0.0))


ANALYTICAL, LEARNED, MEASURED = "analytical", "analytical + learned", "measured"


@dataclass(frozen=True)
class Prediction:
    """Seconds of one call as predicted; `analytical` without what was learned.

    `spread` is the standard deviation of log(seconds) among the learned models, 0 where there is none. `source` says
    what the figure is from.
    """

    seconds: float
    analytical: float
    spread: float = 0.0
    source: str = ANALYTICAL
