"""What are the rows that a handler gives, and the predictions that it tells?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlguard.bodies import Layout
from tests.apps import kinds
from tests.apps.iris import FEATURES

FLOWERS = [[5.1, 3.5, 1.4, 0.2], [6.7, 3.1, 4.7, 1.5]]
NAMED, UNNAMED = Layout(FEATURES), Layout()


def sampled(layout: Layout, inputs: Any) -> list[Any]:
    """Return all rows, as the drift check would get them."""
    return [layout.values(layout.pick(inputs, n))[0] for n in range(len(inputs))]


def stream() -> Iterator[int]:
    yield 1


class TestRows:
    @pytest.mark.parametrize("make", kinds.SEVERAL.values(), ids=kinds.SEVERAL)
    def test_several(self, make: Callable[[Any], Any]) -> None:
        """Rows of any kind are counted, and sampled in the features' order."""
        rows, inputs = NAMED.given(make(FLOWERS))

        assert (rows, sampled(NAMED, inputs)) == (2, FLOWERS)

    @pytest.mark.parametrize("make", kinds.ONE.values(), ids=kinds.ONE)
    def test_one(self, make: Callable[[Any], Any]) -> None:
        """One record of any kind is one row."""
        rows, inputs = NAMED.given(make(FLOWERS))

        assert (rows, sampled(NAMED, inputs)) == (1, FLOWERS[:1])

    @pytest.mark.parametrize("make", kinds.UNREADABLE.values(), ids=kinds.UNREADABLE)
    def test_unreadable(self, make: Callable[[Any], Any]) -> None:
        """What holds no values is counted, and says why nothing is sampled of it."""
        rows, inputs = NAMED.given(make(FLOWERS))

        assert rows == 1
        assert NAMED.values(NAMED.pick(inputs, 0)) == (None, "unreadable")

    @pytest.mark.parametrize(
        ("given", "rows"),
        [
            pytest.param(0, 0, id="no rows"),
            pytest.param(7, 7, id="a number"),
            pytest.param(np.int64(7), 7, id="a number of NumPy"),
            pytest.param([], 0, id="an empty list"),
            pytest.param("a text, with commas", 1, id="a text"),
            pytest.param(["a", "b"], 2, id="texts"),
            pytest.param(b"bytes of an image", 1, id="bytes"),
            pytest.param([b"one", b"two"], 2, id="images"),
            pytest.param([1.0, 2.0, 3.0], 3, id="numbers"),
            pytest.param(np.zeros(9), 9, id="a 1-d array, unnamed"),
            pytest.param(np.zeros((3, 28, 28)), 3, id="images in an array"),
            pytest.param(pd.Series([1, 2, 3]), 3, id="a series"),
            pytest.param(pd.DataFrame({"a": [1, 2, 3]}), 3, id="a frame"),
            pytest.param({"text": "a", "tags": ["x", "y"]}, 1, id="a record that holds a list"),
            pytest.param({"a": [1, 2], "b": [3]}, 1, id="a record of lists"),
            pytest.param({"a": [1, 2], "b": [3, 4]}, 2, id="columns"),
            pytest.param({}, 1, id="an empty record"),
            pytest.param({1, 2, 3}, 3, id="a set"),
            pytest.param(range(5), 5, id="a range"),
        ],
    )
    def test_counted(self, given: Any, rows: int) -> None:
        """Anything that is given is counted by its kind."""
        assert UNNAMED.given(given).rows == rows

    def test_images(self) -> None:
        """An image is one row, a list of them as many."""
        image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
        picture = image.new("L", (28, 28))

        assert [UNNAMED.given(picture).rows, UNNAMED.given([picture] * 3).rows] == [1, 3]

    def test_sparse(self) -> None:
        """What cannot be indexed row by row is counted."""
        sparse = pytest.importorskip("scipy.sparse", reason="SciPy is not installed")

        assert UNNAMED.given(sparse.csr_matrix((3, 4))).rows == 3

    @pytest.mark.parametrize(
        "rows", [stream(), None, 3.5, object(), map(str, [1])], ids=lambda rows: type(rows).__name__
    )
    def test_other_kinds(self, rows: Any) -> None:
        """What has no length is an error that names what is taken."""
        with pytest.raises(TypeError, match=r"must be a number, a list, .* `rows=`") as wrong:
            UNNAMED.given(rows)

        assert type(rows).__name__ in str(wrong.value)

    def test_less_than_nothing(self) -> None:
        """A number below zero is an error, whichever way it is given."""
        for given, number in ((-1, None), ([], -1)):
            with pytest.raises(ValueError, match="-1 rows"):
                UNNAMED.given(given, number)

    @pytest.mark.parametrize(
        ("given", "number", "seen"),
        [
            pytest.param(FLOWERS, 3, 2, id="a list"),
            pytest.param(stream(), 3, 0, id="a stream"),
            pytest.param({"pixels": [0] * 784}, 1, 784, id="columns that are a record"),
        ],
    )
    def test_how_many_they_are(self, given: Any, number: int, seen: int) -> None:
        """A handler says how many rows it is, whatever it gives."""
        found = UNNAMED.given(given, number)

        assert (found.rows, len(found.inputs)) == (number, seen)


class TestPredictions:
    @pytest.mark.parametrize(
        ("told", "asked", "expected"),
        [
            pytest.param([0, 1], 2, 2, id="a list"),
            pytest.param(np.array([0, 1]), 2, 2, id="an array"),
            pytest.param(pd.Series([0, 1]), 2, 2, id="a series"),
            pytest.param({"label": [0, 1], "score": [0.5, 0.5]}, 2, 2, id="columns"),
            pytest.param(7, 1, 1, id="a class that is a number"),
            pytest.param(np.int64(7), 1, 1, id="one of NumPy"),
            pytest.param(0.73, 1, 1, id="a score"),
            pytest.param("setosa", 1, 1, id="a class"),
            pytest.param({"setosa": 0.9, "virginica": 0.1}, 1, 1, id="scores by class"),
            pytest.param([0.9, 0.1], 1, 1, id="probabilities of one row"),
            pytest.param(np.array([0.9, 0.1]), 1, 1, id="the same in an array"),
            pytest.param([0.9, 0.1], 2, 2, id="probabilities of two"),
            pytest.param(0.73, 3, None, id="one for many"),
            pytest.param(None, 1, None, id="none"),
            pytest.param(stream(), 1, None, id="a stream"),
            pytest.param(object(), 1, None, id="an object"),
        ],
    )
    def test_counted(self, told: Any, asked: int, expected: int | None) -> None:
        """Predictions of any kind are counted, and none raises."""
        assert UNNAMED.told(told, asked) == expected

    def test_of_one_record(self) -> None:
        """Whatever a handler tells of one record is one prediction."""
        assert Layout((), shape="row").told([{"box": [1, 2]}] * 5, 1) == 1
