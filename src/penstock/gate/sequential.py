"""Evidence that stays valid however often it is looked at: an e-process against harm, and an interval for a mean.

Both take paired differences of losses, both predictions fixed before the label was known, in the order of scoring.
"""

from __future__ import annotations

import math
from operator import mul
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.gate import courses
from penstock.gate.interface import Interval

Array = NDArray[np.float64]

STAKES = np.array([0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95])
"""Shares of the capital that are bet on the next event, from harm of a few points to harm at almost every event."""
START_SCALE = 64.0
"""Scale of the starts: 41 % of the capital is bet within so many events, and 71 % within ten times as many."""
CAPITAL_MAX = 1e6
"""No bet grows beyond this, so that one that was right for long can still be seen to be wrong; a supermartingale stays
one when capital is given away."""
FEW = 6
"""Events up to which a loop is faster than arrays are."""


class HarmProcess:
    """An e-process against "no event was expected to do harm", which starts afresh at every event.

    For differences x in [-1, 1], positive where the suspect lost more, the product of (1 + s x_i) over the events from
    start j on is the capital of a gambler who stakes the share s on harm; while every conditional mean of x is at most
    0 it is a supermartingale (Waudby-Smith and Ramdas 2023, "Estimating means of bounded random variables by betting";
    by Fan's inequality it is never below the empirical-Bernstein exponential with centre 0). The e-process is

        M_t = sum over stakes s and starts j <= t of  p_s w_j product over i from j to t of (1 + s x_i)

    with sum p_s = sum w_j = 1: the capital w_j waits in cash until event j and is then bet. Cash and bets together are
    a non-negative supermartingale that begins at 1, so that by Ville's inequality P(M_t >= 1/alpha for any t) <= alpha,
    over the whole life of the process and at every look. Without the weights, which is the Shiryaev-Roberts e-detector
    of Shin, Ramdas and Rinaldo 2022, only the mean time to a false alarm would be bounded.

    Starting afresh is what makes a long harmless past, or a burst of events that speak for the suspect, unable to hide
    harm that is done now: whatever has been lost before event j, the capital w_j is still there. It costs
    ln(1 / w_j), about 9 nats at the thousandth event and 18 at the millionth. The weights are the steps of
    1 - 1 / (1 + ln(1 + j / 64)), 64 being the scale of the starts. The sum over all starts needs no list of them:

        R_t(s) = (R_{t-1}(s) + w_t) (1 + s x_t),    M_t = sum p_s R_t(s).

    A null of "no harm on average since the start", which the empirical-Bernstein process tests, would not be weaker
    here: together over all starts it says that no event was expected to do harm, as this one does."""

    def __init__(self, start_scale: float = START_SCALE) -> None:
        self._start_scale = start_scale
        self._bets = np.zeros(len(STAKES))
        self._events = 0
        self.value = 0.0
        """Capital in bets now; what has not been bet yet is left out."""

    def take(self, differences: Array) -> float:
        """(n,) loss of the suspect minus that of what it is compared with, in [-1, 1]; returns the value after them."""
        self.course(differences)
        return self.value

    def course(self, differences: Array) -> Array:
        """The same, with the value after each of them, (n,)."""
        values = np.empty(len(differences))
        courses.harm(self._bets, values, STAKES, differences, self._events, self._start_scale, CAPITAL_MAX)
        self._events += len(values)
        if len(values):
            self.value = float(values[-1])
        return values

    def save(self) -> dict[str, Any]:
        """Plain values that survive MessagePack."""
        return {"bets": self._bets.tolist(), "events": self._events, "value": self.value}

    def load(self, state: dict[str, Any]) -> None:
        """Become what was saved."""
        self._bets, self._events = np.array(state["bets"], np.float64), state["events"]
        self.value = state.get("value", float(self._bets.mean()))


ALARM_STAKES = np.array([0.1, 0.25, 0.5])
"""No more than half: what looks wholly wrong for ten events may be new."""


class Alarm:
    """Evidence that losses are above what was allowed, which begins anew at every event, at no cost.

    For ratios r >= 0 of a loss to what is allowed, whose conditional means are at most 1 while nothing is wrong,

        R_t = mean over stakes s of R_t(s),    R_t(s) = (R_{t-1}(s) + 1) (1 + s (r_t - 1)).

    Each is the sum, over every event as a start, of a gambler's capital (an e-detector: Shin, Ramdas and Rinaldo 2022).
    R_t - t is a supermartingale, so that the chance that R reaches A within n events is at most n / A. Unlike
    HarmProcess it promises nothing for ever, and is many nats sooner for it. Bets on ratios, and not on differences,
    have what a single event can lose as their limit (Waudby-Smith and Ramdas 2023)."""

    def __init__(self) -> None:
        self._bets = np.zeros(len(ALARM_STAKES))

    @property
    def value(self) -> float:
        """Now, to 1."""
        return float(self._bets.mean())

    def take(self, ratios: Array) -> float:
        """The largest value after any of these (n,) events."""
        return courses.alarm(self._bets, ALARM_STAKES, ratios, CAPITAL_MAX)

    def save(self) -> list[float]:
        """Plain values that survive MessagePack."""
        return self._bets.tolist()

    @classmethod
    def of(cls, state: list[float]) -> Alarm:
        """As it was saved."""
        alarm = cls()
        alarm._bets = np.array(state, np.float64)
        return alarm


TILTS: Array = 0.002 * 2.0 ** np.arange(9.0)
"""From 0.002, which is best for some million events, doubling to 0.512 for the first few."""
_PENALTIES: Array = -np.log1p(-TILTS) - TILTS


class MeanInterval:
    """A confidence sequence for the mean of differences in [-1, 1] so far, without assuming that it stays the same.

    Empirical Bernstein (Howard, Ramdas, McAuliffe and Sekhon 2021, "Time-uniform, nonparametric, nonasymptotic
    confidence sequences", Theorem 4): for any predictable guess g_i, here the mean of what came before, with everything
    halved so that x_i - g_i lies in [-1, 1], and psi(l) = -ln(1 - l) - l,

        mean over l of exp(l sum (x_i - E[x_i | past]) - psi(l) sum (x_i - g_i)^2)

    is a non-negative supermartingale that begins at 1, and so is its mirror image. The interval is where neither has
    reached 2 / alpha; it covers the running mean of the conditional means at every look at once, with 1 - alpha."""

    def __init__(self, alpha: float) -> None:
        self._bound = math.log(2.0 / alpha) + math.log(len(TILTS))
        self._events = 0
        self._sums = np.zeros(2)
        """Of the differences, and of a quarter of the squares of each minus its guess."""

    def take(self, differences: Array) -> None:
        """(n,) more of them."""
        courses.spread(self._sums, differences, self._events)
        self._events += len(differences)

    @property
    def interval(self) -> Interval:
        """Now."""
        if not self._events:
            return Interval(mean=0.0, low=-1.0, high=1.0, events=0)
        total, squares = self._sums.tolist()
        mean, width = total / self._events, 2 * _radius(squares, self._bound) / self._events
        return Interval(mean=mean, low=max(-1.0, mean - width), high=min(1.0, mean + width), events=self._events)

    def save(self) -> list[float]:
        """Plain values that survive MessagePack."""
        return [self._events, *self._sums.tolist()]

    def load(self, state: list[float]) -> None:
        """Become what was saved."""
        self._events, self._sums = int(state[0]), np.array(state[1:], np.float64)


def _radius(squares: float, bound: float) -> float:
    """Where the logarithm of sum over l of exp(l r - psi(l) squares) reaches the bound."""
    return courses.radius(TILTS, _PENALTIES, squares, bound)


STAKED = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 0.95)
"""Shares of the capital that are bet on a gain: from gains that take a hundred thousand events to see to those seen in
tens, and to small ones that come at every event."""
_STAKED = np.array(STAKED)
EXPONENT_MAX = 600.0
"""An exponential beyond it would not be a number; evidence of so many nats has long been acted upon."""


class GainProcess:
    """An e-process against "on average over the events so far, no gain was expected".

    For differences x in [-1, 1], positive where the newcomer lost less, and stakes s that stay what they are,

        E_t = mean over s of product over i <= t of (1 + s x_i).

    With m_i = E[x_i | past], each product is M_t times the product of (1 + s m_i), where M_t, the product of
    (1 + s x_i) / (1 + s m_i), is a non-negative martingale that begins at 1; and 1 + s m <= exp(s m). So

        product of (1 + s x_i) <= M_t exp(s sum m_i),

    and wherever the sum of the conditional means is at most 0, E_t is below a mixture of such martingales: the chance
    that it ever reaches 1 / alpha at such a moment is at most alpha (Ville), at every look and whatever drifts. What
    was better for a while only, and is worse on the whole, is therefore not let through; this takes stakes that do not
    depend on what came before. (The null is that of Choe and Ramdas 2022, "Comparing sequential forecasters"; the
    product is never below their empirical-Bernstein exponential with centre 0, by Fan's inequality.)

    The same inequality bounds the sum of the conditional means from below (`least`). Eight numbers of state."""

    def __init__(self) -> None:
        self._events = 0
        self._sum = 0.0
        self._logs = [0.0] * len(STAKED)
        """Of the capital of each stake."""

    @property
    def value(self) -> float:
        """Evidence for a gain, to 1; 1 before the first event."""
        return math.fsum(math.exp(min(log, EXPONENT_MAX)) for log in self._logs) / len(STAKED)

    @property
    def events(self) -> int:
        """How many were taken."""
        return self._events

    @property
    def mean(self) -> float:
        """Of the differences so far; 0 before the first."""
        return self._sum / self._events if self._events else 0.0

    def least(self, alpha: float) -> float:
        """What the running mean of the conditional means is not below, with 1 - alpha at every look at once: positive
        where the evidence for a gain has reached 1 / alpha.

        It is the r / n at which the mean over s of exp(log of the capital - s r) is 1 / alpha: Newton from the left,
        where every step stays left of the root, so that stopping early only lowers the bound."""
        if not self._events:
            return -1.0
        bound = math.log(len(STAKED) / alpha)
        r = max((log - bound) / stake for log, stake in zip(self._logs, STAKED, strict=True))
        for _ in range(20):
            exponents = [log - stake * r for log, stake in zip(self._logs, STAKED, strict=True)]
            top = max(exponents)
            parts = [math.exp(e - top) for e in exponents]
            total = math.fsum(parts)
            step = (top + math.log(total) - bound) * total / sum(map(mul, STAKED, parts))
            r += step
            if step < 1e-7 * self._events:
                break
        return max(-1.0, r / self._events)

    def take(self, differences: Array) -> float:
        """(n,) loss of what is compared with minus that of the newcomer, in [-1, 1]; returns the value after them."""
        if len(differences) > FEW:
            return float(self.course(differences)[-1])
        for x in differences.tolist():
            self._logs = [log + math.log1p(stake * x) for log, stake in zip(self._logs, STAKED, strict=True)]
            self._sum += x
            self._events += 1
        return self.value

    def course(self, differences: Array) -> Array:
        """The same, with the value after each of them, (n,)."""
        if not len(differences):
            return np.empty(0)
        logs = np.cumsum(np.log1p(np.outer(_STAKED, differences)), axis=1) + np.array(self._logs)[:, None]
        self._logs = logs[:, -1].tolist()
        self._sum += float(differences.sum())
        self._events += len(differences)
        values: Array = np.exp(np.minimum(logs, EXPONENT_MAX)).mean(axis=0)
        return values

    def save(self) -> list[float]:
        return [self._events, self._sum, *self._logs]

    def load(self, state: list[float]) -> None:
        events, total, *logs = state
        if len(logs) != len(STAKED):
            # A state of before stakes were bet, whose evidence was another number: the comparison begins again.
            events, total, logs = 0, 0.0, [0.0] * len(STAKED)
        self._events, self._sum, self._logs = int(events), total, logs


def signed(gain: Interval) -> str:
    """An interval in words."""
    return f"gain {gain.mean:+.4f} an event, {gain.low:+.4f} to {gain.high:+.4f}, on {gain.events} events"
