"""How fast a pool starts sandboxes: fewer at once while the engine is slow, later and one by one while it fails."""

MAX_STARTING = 8
"""Sandboxes of one spec being started at once: more only slows the engine down."""

SLOW_FACTOR = 3.0
SLOW_SECONDS = 0.5
"""A start is slow when it takes so many times what the fastest took lately, and at least this long."""

FORGET = 1.1
"""By so much the fastest is forgotten with each start: an engine that stays slow is the usual one in the end."""

FIRST_PAUSE_SECONDS = 0.05
MAX_PAUSE_SECONDS = 5.0
"""Between two failures in a row; doubled from the first up to the last."""


class Pace:
    """Told of every start, it says how many may be under way (`allowed`) and how long the next one has to wait."""

    def __init__(self) -> None:
        self.allowed = MAX_STARTING
        self.failures = 0
        self._fastest_seconds: float | None = None
        self._changed_at = float("-inf")
        self._not_before = float("-inf")

    def pause_seconds(self, now: float) -> float:
        return max(0.0, self._not_before - now)

    def succeeded(self, began: float, now: float) -> None:
        self.failures = 0
        seconds = now - began
        fastest = seconds if self._fastest_seconds is None else self._fastest_seconds
        self._fastest_seconds = min(seconds, fastest * FORGET)
        if seconds < SLOW_SECONDS or seconds < fastest * SLOW_FACTOR:
            self.allowed = min(MAX_STARTING, self.allowed * 2)
        elif began >= self._changed_at:  # those that began before are slow for the reason that is dealt with already
            self.allowed = max(1, self.allowed // 2)
            self._changed_at = now

    def failed(self, began: float, now: float) -> None:
        if began < self._changed_at:
            return  # one of a batch, whose first failure counts
        self.failures += 1
        self.allowed = 1
        self._changed_at = now
        self._not_before = now + min(MAX_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** (self.failures - 1))
