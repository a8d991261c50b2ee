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
    at a time: the first that succeeds closes it, and one that fails opens it anew. A failure that no longer counts,
    because the one who is blamed for it was blamed before, leaves it half open for others, and holds that one back for
    `recovery_seconds`.
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
        self._held: dict[str, float] = {}  # until when, the earliest first
        self._told_period = -1

    @property
    def state(self) -> CircuitState:
        if self._opened_at is None:
            return "closed"
        return "half_open" if self._left() <= 0 else "open"

    def retry_after_seconds(self, blamed: str = "") -> float:
        """How long a call that is refused now should wait: while others probe, as long as they may keep it open."""
        if self.state == "open":
            return self._left()
        held = self._held_seconds(blamed)
        return held if held > 0 else self._recovery_seconds

    def admit(self, blamed: str = "") -> int | None:
        """The period that an admitted call belongs to, for `settle`; None refuses it.

        `blamed` is who would be, if it fails.
        """
        if self._opened_at is not None:
            if self._left() > 0 or self._probes >= self._most_probes or self._held_seconds(blamed) > 0:
                return None
            self._probes += 1
        return self._period

    def begins_probing(self) -> bool:
        """Whether nobody asked this before since the circuit opened last."""
        begins = self._told_period != self._period
        self._told_period = self._period
        return begins

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
                self._hold_back(blamed)
            return None
        return self._turn(self._clock()) if self._tally.failed() or probed else None

    def _is_news(self, blamed: str) -> bool:
        if blamed in self._blamed:
            return False
        if len(self._blamed) >= _MAX_BLAMED:
            self._blamed.clear()
        self._blamed.add(blamed)
        return True

    def _hold_back(self, blamed: str) -> None:
        self._held.pop(blamed, None)
        if len(self._held) >= _MAX_BLAMED:
            del self._held[next(iter(self._held))]
        self._held[blamed] = self._clock() + self._recovery_seconds

    def _held_seconds(self, blamed: str) -> float:
        until = self._held.get(blamed)
        return 0.0 if until is None else until - self._clock()

    def _turn(self, opened_at: float | None) -> CircuitState:
        self._opened_at = opened_at
        self._period += 1
        self._probes = 0
        self._held.clear()
        return self.state

    def _left(self) -> float:
        return 0.0 if self._opened_at is None else self._opened_at + self._recovery_seconds - self._clock()
