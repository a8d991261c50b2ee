"""The circuit that breakers open and close: its states, and who may pass. A `Tally` says when it is time to open."""

from collections.abc import Callable
from typing import Protocol

from gateway.policies.base import CircuitState

_MAX_BLAMED = 1000


class Tally(Protocol):
    """Counts the outcomes of one circuit, and says when it opens."""

    def succeeded(self) -> None: ...

    def failed(self) -> bool:
        """Whether the circuit opens, if it is closed."""
        ...


class Circuit:
    """The circuit of one tool, or of one of its tenants.

    Open it lets nothing through; when `recovery_seconds` have passed it is half open, and lets `probes` calls through
    at a time: the first that succeeds closes it, and one that fails opens it anew. A failure that is blamed on who was
    blamed before does neither, and keeps that one alone away for `recovery_seconds`.
    """

    def __init__(self, tally: Tally, recovery_seconds: float, probes: int, clock: Callable[[], float]) -> None:
        self._tally = tally
        self._recovery_seconds = recovery_seconds
        self._most_probes = probes
        self._clock = clock
        self._opened_at: float | None = None
        self._probes = 0
        self._period = 0
        self._blamed: set[str] = set()
        self._held: dict[str, float] = {}  # whom a probe was blamed on, until when each is kept away
        self.is_probed = False
        """Whether a call was let through since it became half open."""

    @property
    def state(self) -> CircuitState:
        if self._opened_at is None:
            return "closed"
        return "half_open" if self._left() <= 0 else "open"

    def retry_after_seconds(self, who: str = "") -> float:
        """How long a call that is refused now should wait: while others probe, as long as they may keep it open."""
        if self.state == "open":
            return self._left()
        return self._held_seconds(who) or self._recovery_seconds

    def admit(self, who: str = "") -> int | None:
        """The period that an admitted call belongs to, for `settle`; None refuses it. `who` may be blamed for it."""
        if self._opened_at is not None:
            if self._left() > 0 or self._probes >= self._most_probes or self._held_seconds(who):
                return None
            self._probes += 1
            self.is_probed = True
        return self._period

    def settle(self, period: int, *, failed: bool | None, blamed: str = "") -> CircuitState | None:
        """Take the outcome of an admitted call, None for one that says nothing; the state this brings about, if any.

        The outcome of a call of an earlier period changes nothing. Failures with the same `blamed` count once until a
        call succeeds.
        """
        if period != self._period:
            return None
        probed = self._opened_at is not None
        self._probes -= probed
        if failed is None:
            return None
        if not failed:
            self._tally.succeeded()
            self._blamed.clear()
            return self._turn(None) if probed else None
        if blamed and not self._is_news(blamed):
            if probed:
                self._hold(blamed)
            return None
        return self._turn(self._clock()) if self._tally.failed() or probed else None

    def _is_news(self, blamed: str) -> bool:
        if blamed in self._blamed:
            return False
        if len(self._blamed) >= _MAX_BLAMED:
            self._blamed.clear()
        self._blamed.add(blamed)
        return True

    def _hold(self, who: str) -> None:
        if len(self._held) >= _MAX_BLAMED:
            self._held.clear()
        self._held[who] = self._clock() + self._recovery_seconds

    def _held_seconds(self, who: str) -> float:
        return max(0.0, self._held.get(who, 0.0) - self._clock()) if self._held else 0.0

    def _turn(self, opened_at: float | None) -> CircuitState:
        self._opened_at = opened_at
        self._held.clear()
        self.is_probed = False
        self._period += 1
        self._probes = 0
        return self.state

    def _left(self) -> float:
        return 0.0 if self._opened_at is None else self._opened_at + self._recovery_seconds - self._clock()
