"""How fast tasks may leave a queue, as its workers ask for: a bucket of tokens that fills at the rate.

Workers say with each poll how many activities a second their queue may start; the latest word holds for all of them.
"""

from __future__ import annotations

__all__ = ["Throttle"]


class Throttle:
    """Tokens: one for each task that leaves.

    Args:
        rate: tasks a second, more than 0. The bucket holds a second's worth, at least one.
        now_s: a monotonic instant.
    """

    __slots__ = ("_at_s", "_tokens", "limited_at_s", "rate")

    def __init__(self, rate: float, now_s: float) -> None:
        self.rate = rate
        self.limited_at_s = float("-inf")
        """When a task had to wait last."""
        self._tokens = max(rate, 1.0)
        self._at_s = now_s

    def admit(self, now_s: float) -> bool:
        """Take a token, if there is one."""
        self._tokens = min(max(self.rate, 1.0), self._tokens + (now_s - self._at_s) * self.rate)
        self._at_s = now_s
        if self._tokens < 1.0 - 1e-9:
            self.limited_at_s = now_s
            return False
        self._tokens -= 1.0
        return True

    def give_back(self) -> None:
        """The task did not leave after all."""
        self._tokens += 1.0

    def wait_s(self) -> float:
        """How long until the next token, after `admit` has refused."""
        return max(0.0, (1.0 - self._tokens) / self.rate)

    def change(self, rate: float) -> None:
        """Another rate from now on."""
        self.rate = rate
