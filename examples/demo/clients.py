"""Who calls, how do they behave, and what do they get?"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Self

import httpx2
import numpy as np

from examples.demo.patients import Patients
from examples.demo.tokens import Mint

CLINICS = ("clinic north", "clinic east", "clinic south")
WARDS = ("ward 1", "ward 2", "ward 3", "ward 4")

Step = Callable[[], None]
"""Called once per request, for the progress bar."""


@dataclass(slots=True)
class Tally:
    """What one client got.

    Attributes:
        client: Who.
        behaviour: What kind of client: equal on both services.
        answered: Requests that the model answered.
        rows: Rows that the model answered.
        refused: Other requests by code, or by status where the answer has none.
        left: By unit, "requests" and "rows": units left of the quota, by the last 200.
        retry_after: Seconds to wait, by the last refusal.
    """

    client: str
    behaviour: str
    answered: int = 0
    rows: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    left: dict[str, int] = field(default_factory=dict)
    retry_after: int = 0

    @property
    def asked(self) -> int:
        """Requests sent."""
        return self.answered + self.refused.total()


class Client:
    """A caller with one connection that it keeps, so it always meets the same worker."""

    def __init__(self, url: str, tally: Tally, token: str | None, step: Step) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.tally = tally
        self._http = httpx2.Client(base_url=url, headers=headers, timeout=30, trust_env=False)
        self._step = step

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def predict(self, rows: list[list[float]]) -> dict[str, Any] | None:
        """Ask for predictions; None where the request is refused."""
        answer = self._http.post("/predict", json={"instances": rows})
        self._step()
        if answer.status_code == 200:
            self._note_quota(answer.headers.get("RateLimit", ""))
            self.tally.answered += 1
            self.tally.rows += len(rows)
            return answer.json()
        self.tally.refused[_code(answer)] += 1
        self.tally.retry_after = int(answer.headers.get("Retry-After", 0))
        return None

    def _note_quota(self, header: str) -> None:
        for unit, left in re.findall(r'"(\w+)-\d+";r=(\d+)', header):
            self.tally.left[unit] = int(left)


def _code(answer: httpx2.Response) -> str:
    if answer.headers.get("Content-Type", "").startswith("application/problem+json"):
        return f"{answer.status_code} {answer.json()['code']}"
    return str(answer.status_code)


class Crowd:
    """All clients of one service but the thief.

    Args:
        url: The service.
        patients: What they ask about.
        mint: Where they get tokens.
        seed: Makes the same clients ask the same of both services.
        step: Told of each request.
    """

    def __init__(self, url: str, patients: Patients, mint: Mint, seed: int, step: Step) -> None:
        self._url = url
        self._patients = patients
        self._mint = mint
        self._seed = seed
        self._step = step

    def well_behaved(self, requests: int) -> list[Tally]:
        """Three clinics at once, each with batches of one to eight patients."""
        sizes = (1, 1, 2, 4, 8)
        return self._at_once(CLINICS, "well-behaved", self._patients, requests, sizes)

    def drifted(self, requests: int) -> list[Tally]:
        """Four wards at once, whose new monitors read two values too high."""
        patients = self._patients.misread()
        return self._at_once(WARDS, "new monitors", patients, requests, (1, 1, 2))

    def tokenless(self, requests: int) -> Tally:
        """Somebody who found the address."""
        with self._client("passer-by", "no token", None) as client:
            for rows in self._batches("passer-by", self._patients, requests, (1,)):
                client.predict(rows)
        return client.tally

    def expired(self, requests: int) -> Tally:
        """A former employee whose token ended an hour ago."""
        token = self._mint.token("former employee", lasts=-3600)
        with self._client("former employee", "expired token", token) as client:
            for rows in self._batches("former employee", self._patients, requests, (1,)):
                client.predict(rows)
        return client.tally

    def hasty(self, requests: int) -> Tally:
        """A dashboard that asks as fast as it can."""
        with self._client("dashboard", "asks in a loop") as client:
            for rows in self._batches("dashboard", self._patients, requests, (1,)):
                client.predict(rows)
        return client.tally

    def bulk(self) -> Tally:
        """A nightly job: one huge batch, then the same in pieces until the quota is spent."""
        with self._client("nightly job", "huge batches") as client:
            huge, *pieces = self._batches("nightly job", self._patients, 6, (1000,) + (100,) * 5)
            client.predict(huge)
            for rows in pieces:
                if client.predict(rows) is None:
                    break
        return client.tally

    def _at_once(
        self,
        names: tuple[str, ...],
        behaviour: str,
        patients: Patients,
        requests: int,
        sizes: tuple[int, ...],
    ) -> list[Tally]:
        def call(name: str) -> Tally:
            with self._client(name, behaviour) as client:
                for rows in self._batches(name, patients, requests, sizes):
                    client.predict(rows)
            return client.tally

        with ThreadPoolExecutor(len(names)) as pool:
            return list(pool.map(call, names))

    def _client(self, name: str, behaviour: str, token: str | None = "mint") -> Client:
        if token == "mint":
            token = self._mint.token(name)
        return Client(self._url, Tally(name, behaviour), token, self._step)

    def _batches(
        self, name: str, patients: Patients, requests: int, sizes: tuple[int, ...]
    ) -> Iterable[list[list[float]]]:
        visits = patients.rounds(np.random.default_rng([self._seed, *name.encode()]))
        for index in range(requests):
            yield list(islice(visits, sizes[index % len(sizes)]))
