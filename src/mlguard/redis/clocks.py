"""What does a server's clock say?"""

from __future__ import annotations

from mlguard.redis.links import Answer, Unreachable
from mlguard.redis_url import Node


class Clocks:
    """The clocks of servers, which are only known from their answers.

    The estimate is never ahead of the server's own clock, as long as that runs as ours does.

    Args:
        homeward: Seconds that an answer may take back: what is done later than that before the
            end would have been given up when the answer is there.
    """

    def __init__(self, homeward: float) -> None:
        self._homeward = homeward
        self._ahead: dict[Node, float] = {}

    def deadline(self, node: Node, until: float) -> str:
        """Tell until when it must be done to be answered in time, in microseconds of its clock."""
        return f"{(self._ahead.get(node, 0.0) + until - self._homeward) * 1e6:.0f}"

    def greet(self, node: Node, answer: Answer) -> None:
        """Learn from the reply to TIME, which a new connection asks last."""
        try:
            seconds, micros = answer.replies[-1]
            self.learn(node, int(seconds) * 1_000_000 + int(micros), answer)
        except (TypeError, ValueError):
            raise Unreachable("it does not answer as Redis does") from None

    def learn(self, node: Node, micros: int, answer: Answer) -> None:
        """Correct the estimate by what a server answered."""
        least, most = micros / 1e6 - answer.received, micros / 1e6 - answer.sent
        self._ahead[node] = min(max(self._ahead.get(node, least), least), most)
