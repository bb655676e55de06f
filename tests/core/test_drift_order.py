"""What does chance do to rows that depend on each other, and on the hour?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mlguard.drift import Reference, check
from mlguard.drift.episodes import Episodes

pytestmark = pytest.mark.xdist_group("evidently")

WEEK = 7 * 24 * 60 // 20  # rows
SIZE = 500


def weeks(number: int, seed: int) -> pd.DataFrame:
    """Return rows every 20 minutes: a load by the hour, slow weather, a category, noise.

    The weather wanders for about a day, as an autoregression.
    """
    rng = np.random.default_rng(seed)
    rows = number * WEEK
    times = pd.date_range("2024-01-01", periods=rows, freq="20min", tz="Europe/Berlin")
    weather = np.empty(rows)
    weather[0] = 0.0
    for row, noise in enumerate(rng.normal(0, math.sqrt(1 - 0.98**2), rows - 1)):
        weather[row + 1] = 0.98 * weather[row] + noise
    is_day = (times.hour >= 8) & (times.hour < 20) & (times.dayofweek < 5)
    return pd.DataFrame(
        {
            "at": times,
            "load": np.where(is_day, 10.0, 2.0) + rng.normal(size=rows),
            "weather": weather,
            "kind": np.where(rng.random(rows) < np.where(is_day, 0.7, 0.2), "work", "play"),
            "noise": rng.normal(size=rows),
        }
    )


def windows(frame: pd.DataFrame) -> Iterator[pd.DataFrame]:
    for start in range(0, len(frame) - SIZE + 1, SIZE):
        yield frame.iloc[start : start + SIZE]


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return weeks(40, 0)


@pytest.fixture(scope="module")
def reference(frame: pd.DataFrame) -> Reference:
    """Know every other week."""
    week = np.arange(len(frame)) // WEEK
    return Reference.build(frame[week % 2 == 0], time="at")


@pytest.fixture(scope="module")
def traffic(frame: pd.DataFrame) -> pd.DataFrame:
    week = np.arange(len(frame)) // WEEK
    return frame[week % 2 == 1].reset_index(drop=True)


class TestOrder:
    def test_it_is_learned_from_blocks(self, reference: Reference) -> None:
        """Rows with a time are learned from in their order, on the clock of their column."""
        seasons = reference.seasons

        assert reference.calibration.source == "blocks"
        assert seasons.clock in ("hour of day and weekend", "hour of week")
        assert seasons.timezone == "Europe/Berlin"
        assert reference.features == ("load", "weather", "kind", "noise")

    def test_rows_without_an_order(self, frame: pd.DataFrame, traffic: pd.DataFrame) -> None:
        """Without an order the rows' own chance is all there is, and their windows alarm."""
        reference = Reference.build(frame.drop(columns="at"))

        found = [check(reference, window).detected for window in windows(traffic)]

        assert reference.calibration.source == "rows"
        assert np.mean(found) > 0.5

    def test_silence(self, reference: Reference, traffic: pd.DataFrame) -> None:
        """The weeks between those of the reference have no drift that lasts."""
        episodes = Episodes()

        found = [episodes.add(check(reference, window).drifted) for window in windows(traffic)]

        assert len(found) > 15
        assert not any(found)

    def test_what_is_said_to_be_detectable_is_detected(
        self, reference: Reference, traffic: pd.DataFrame
    ) -> None:
        """Of shifts as large as said, nine of ten are seen by a window, by any feature."""
        found = []
        for name in reference.features:
            smallest = reference.calibration.detectable(name, SIZE)
            for number, window in enumerate(windows(traffic)):
                shifted = window.copy()
                if name == "kind":
                    rng = np.random.default_rng(number)
                    shifted.loc[rng.random(SIZE) < smallest, name] = "work"
                else:
                    shifted[name] += (-1) ** number * smallest * traffic[name].std()
                found.append(name in check(reference, shifted).drifted)

        assert np.mean(found) >= 0.9

    def test_the_hour_makes_shifts_visible(self, reference: Reference) -> None:
        """By its own hour a load shows less than half of the shift that it shows otherwise."""
        by_hour = reference.calibration.limits["load"].scores
        otherwise = reference.anytime.limits["load"].scores

        assert by_hour[0] < otherwise[0] / 2

    def test_dependence_is_said_aloud(self, reference: Reference) -> None:
        """A feature that wanders for a day is seen to shift later than one that does not."""
        detectable = reference.calibration.detectable

        assert detectable("weather", SIZE) > 2 * detectable("noise", SIZE)

    def test_a_window_without_times(self, reference: Reference, traffic: pd.DataFrame) -> None:
        """Where nobody says when rows came they are compared with all, and do not alarm."""
        half_days = [traffic[n : n + 36].drop(columns="at") for n in range(0, 2000, 36)]

        found = [check(reference, half_day).features[0] for half_day in half_days]

        assert not any(feature.detected for feature in found)
        assert min(feature.threshold for feature in found) > 0.5

    def test_a_window_of_one_hour(self, reference: Reference, traffic: pd.DataFrame) -> None:
        """Rows of one hour are compared with that hour; the same rows at another hour drift."""
        at = traffic["at"].dt
        noon = traffic[(at.hour == 12) & (at.dayofweek < 5)]
        moved = noon.assign(at=noon["at"] + pd.Timedelta(hours=12))

        assert "load" not in check(reference, noon).drifted
        assert "load" in check(reference, moved).drifted

    @pytest.mark.parametrize("form", ["text", "seconds", "utc"])
    def test_forms_of_time(self, frame: pd.DataFrame, form: str) -> None:
        """A time may be a text, seconds since 1970 or of another zone: it is the same reference."""
        part = frame[: 8 * WEEK]
        utc = part["at"].dt.tz_convert("UTC")
        forms = {
            "text": utc.dt.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "seconds": (utc - pd.Timestamp(0, tz="UTC")).dt.total_seconds(),
            "utc": utc,
        }

        one, other = (
            Reference.build(table, time="at", timezone="Europe/Berlin")
            for table in (part, part.assign(at=forms[form]).sample(frac=1, random_state=0))
        )

        assert one.seasons == other.seasons
        assert one.calibration == other.calibration

    def test_a_number_gives_an_order_only(self, frame: pd.DataFrame) -> None:
        """A year or a counter orders the rows, and has no clock."""
        reference = Reference.build(frame.assign(at=np.arange(len(frame))), time="at")

        assert reference.calibration.source == "blocks"
        assert reference.seasons.clock == ""

    def test_it_is_kept(self, reference: Reference, traffic: pd.DataFrame, tmp_path: Path) -> None:
        """A reference that was saved and loaded gives the same verdicts."""
        reference.save(tmp_path / "r.parquet")
        window = traffic[:SIZE]

        loaded = Reference.load(tmp_path / "r.parquet")

        assert loaded.calibration == reference.calibration
        assert loaded.anytime == reference.anytime
        assert check(loaded, window) == check(reference, window)


class TestSegments:
    def test_each_has_its_reference(self) -> None:
        """Values that are usual in one segment are a drift in another; the mix may change."""
        rng = np.random.default_rng(0)
        shop = rng.choice(["big", "small"], 4000)
        price = np.where(shop == "big", 100.0, 10.0) + rng.normal(size=4000)
        reference = Reference.build({"shop": shop, "price": price}, segment="shop")

        others = [["small", 10.0 + float(noise)] for noise in rng.normal(size=300)]
        swapped = [["small", 100.0 + float(noise)] for noise in rng.normal(size=300)]

        assert check(reference, others).drifted == ("shop",)
        assert check(reference, swapped).drifted == ("shop", "price")


class TestEpisodes:
    @pytest.mark.parametrize(
        ("k", "n", "windows", "expected"),
        [
            pytest.param(2, 2, "a a - -", "- a a -", id="two in a row, until two are quiet"),
            pytest.param(2, 2, "a - a -", "- - - -", id="never two in a row"),
            pytest.param(2, 3, "a - a - - -", "- - a a a -", id="two of three"),
            pytest.param(2, 2, "a b a b", "- - - -", id="each feature by itself"),
            pytest.param(1, 1, "a - b", "a - b", id="at once"),
            pytest.param(2, 2, "a a - a - -", "- a a a a -", id="it flickers once"),
        ],
    )
    def test_of_windows(self, k: int, n: int, windows: str, expected: str) -> None:
        """A drift lasts from k of the last n windows on, until none of them shows it."""
        episodes = Episodes(k, n)

        found = ["".join(episodes.add(set(w) - {"-"})) or "-" for w in windows.split()]

        assert " ".join(found) == expected

    def test_resumed(self) -> None:
        """What lasted in an earlier process goes on to last."""
        episodes = Episodes(2, 2)
        episodes.resume({"a"})

        assert episodes.add({"a"}) == {"a"}

    @pytest.mark.parametrize(("k", "n"), [(0, 1), (3, 2)])
    def test_refuses(self, k: int, n: int) -> None:
        """More windows than there are cannot drift."""
        with pytest.raises(ValueError, match=f"drifted={k}"):
            Episodes(k, n)
