"""What is a companion's end of a connection to one worker?"""

from __future__ import annotations

from multiprocessing.connection import Connection
from threading import Lock

from mlguard.host.processes import Process
from mlguard.runtime.companion.frames import Message, send
from mlguard.runtime.companion.teller import Teller

_SEND_WAIT = 0.1  # seconds


class Link:
    """One worker's connection.

    Attributes:
        polled: The number of the last poll that was sent.
        answered: The number of the last poll that was answered.
        asked: The number of the worker's last question for everybody's numbers.
        is_told: Whether no thread is at answering it.
        gone_since: When its process was first seen gone.
        teller: Tells it what is revoked.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.process = Process(0, "")
        self.name = ""
        self.polled = 0
        self.answered = 0
        self.asked = 0
        self.is_told = True
        self.gone_since: float | None = None
        self.teller = Teller(self.send)
        self._sending = Lock()

    def send(self, message: Message) -> None:
        """Send, however long the worker takes to read."""
        with self._sending:
            send(self.connection, message)

    def poll(self, number: int) -> bool:
        """Ask for a snapshot; False where the worker does not even read."""
        # Another thread may be about to end its sending, or be stuck in it for ever.
        if self.polled != self.answered or not self._sending.acquire(timeout=_SEND_WAIT):
            return False
        try:
            send(self.connection, {"poll": number})
        except OSError:
            return False
        finally:
            self._sending.release()
        self.polled = number
        return True
