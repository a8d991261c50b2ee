"""A circuit breaker whose patience follows the tool: more of it while the tool does well, less while it fails."""

from collections import deque
from dataclasses import dataclass
from typing import ClassVar

from gateway.errors import InvalidRequest
from gateway.policies.breaker import BreakerConfig
from gateway.policies.checks import check_count, check_number
from gateway.policies.circuit import Tally


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveBreaker(BreakerConfig):
    """Opens after as many failures in a row as its threshold, which moves from `base_threshold` to `max_threshold`.

    It looks at the last `window_size` outcomes after each: with fewer failures than half of `error_rate_threshold` the
    threshold grows by one, with more than all of it it falls by one, and between it stays. It does not move before
    there are `minimum_calls` outcomes (None: from the first). Raises InvalidRequest.
    """

    kind: ClassVar[str] = "adaptive"

    base_threshold: int = 5
    max_threshold: int = 20
    error_rate_threshold: float = 0.5
    window_size: int = 100
    minimum_calls: int | None = None

    def __post_init__(self) -> None:
        BreakerConfig.__post_init__(self)
        for name in ("base_threshold", "max_threshold", "window_size"):
            check_count(name, getattr(self, name))
        check_number("error_rate_threshold", self.error_rate_threshold, most=1)
        if self.minimum_calls is not None:
            check_count("minimum_calls", self.minimum_calls, most=self.window_size)
        if self.error_rate_threshold == 0 or self.max_threshold < self.base_threshold:
            raise InvalidRequest("error_rate_threshold must be above 0, and max_threshold at least base_threshold")

    def tally(self) -> Tally:
        return _Window(self)


class _Window:
    """The last outcomes, failures in a row among them, and the threshold that these are held against."""

    def __init__(self, config: AdaptiveBreaker) -> None:
        self._config = config
        self._failures: deque[bool] = deque(maxlen=config.window_size)
        self._failed = 0
        self._streak = 0
        self._threshold = config.base_threshold

    def succeeded(self) -> None:
        self._streak = 0
        self._add(failed=False)

    def failed(self) -> bool:
        self._streak += 1
        self._add(failed=True)
        return self._streak >= self._threshold

    def _add(self, *, failed: bool) -> None:
        if len(self._failures) == self._failures.maxlen:
            self._failed -= self._failures[0]
        self._failures.append(failed)
        self._failed += failed
        if len(self._failures) >= (self._config.minimum_calls or 1):
            self._move(self._failed / len(self._failures))

    def _move(self, rate: float) -> None:
        config = self._config
        if rate < config.error_rate_threshold / 2:
            self._threshold = min(self._threshold + 1, config.max_threshold)
        elif rate > config.error_rate_threshold:
            self._threshold = max(self._threshold - 1, config.base_threshold)
