"""What did training look like?"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlguard import __version__
from mlguard.drift import notebook
from mlguard.drift.calibration import Calibration
from mlguard.drift.extras import require
from mlguard.drift.hashing import CategoryHash
from mlguard.drift.parquet import metadata
from mlguard.drift.profile import Feature
from mlguard.drift.seasons import Seasons
from mlguard.errors import InvalidReference

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

FORMAT = 2
METADATA_KEY = b"mlguard"
BUILD_COMMAND = "mlguard reference build data.csv -o reference.parquet"


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """The training data in small: a profile of every feature, a sample of the rows, and chance.

    Attributes:
        profile: The columns that are compared: the model's inputs, in the order in which it takes
            them, then its predictions and scores.
        sample: Sampled rows in random order, column by column and aligned: float64 with NaN for
            missing where numeric, str with None for missing where categorical.
        rows: Rows of the training data, of which the sample is a part.
        created: When it was built, ISO 8601 in UTC.
        seasons: What divides the rows into parts.
        parts: The part of each sampled row.
        calibration: What chance does where the part of each row is known.
        anytime: What it does where the clock is not known.
        notes: What whoever built it should know.
        category_key: Names the key that its texts were hashed with; "" where they can be read.
    """

    profile: tuple[Feature, ...]
    sample: Mapping[str, NDArray[Any]]
    rows: int
    created: str
    seasons: Seasons
    parts: NDArray[np.intp]
    calibration: Calibration
    anytime: Calibration
    notes: tuple[str, ...] = ()
    category_key: str = ""
    prepared: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    @property
    def features(self) -> tuple[str, ...]:
        """Return the inputs' names, in the order in which the model takes them."""
        return tuple(feature.name for feature in self.profile if feature.role == "input")

    def sampled(self, feature: Feature) -> slice:
        """Return the sampled rows that scores are made of: not those that chose its categories."""
        return slice(len(self.parts) // 2 if feature.is_cut else 0, None)

    def comparable(self, feature: Feature) -> NDArray[Any]:
        """Return the feature's values in those rows."""
        return self.sample[feature.name][self.sampled(feature)]

    @classmethod
    def build(
        cls,
        frame: pd.DataFrame | Mapping[str, Sequence[object]],
        *,
        categorical: Iterable[str] = (),
        features: Iterable[str] | None = None,
        predictions: Iterable[str] = (),
        scores: Iterable[str] = (),
        time: str | None = None,
        timezone: str | None = None,
        ordered: bool = False,
        segment: str | None = None,
        max_rows: int = 20_000,
        alpha: float = 0.01,
        seed: int = 0,
        created: datetime | None = None,
        category_key: bytes | None = None,
        progress: Callable[[float], None] = lambda _: None,
    ) -> Reference:
        """Profile `frame`, one row per training example and one column per feature.

        Columns of strings, objects, categories and booleans are categorical, and so are the ones
        named in `categorical`. At most `max_rows` rows are kept as the sample.

        Args:
            frame: The rows that a model was trained on, or that it met while all was well.
            categorical: Columns of numbers that are categories.
            features: The model's inputs, in its order; all columns that nothing else names.
            predictions: Columns with what the model answered, compared like inputs where a window
                has them.
            scores: Columns with the model's scores, compared in the same way.
            time: The column that says when each row came. It gives the rows their order, so that
                thresholds are learned from contiguous blocks, and shows whether the hour matters.
            timezone: The zone of times that name none, whose clock is used; default: the
                column's own, else UTC.
            ordered: Whether the rows stand in the order in which they came.
            segment: A column whose values have a reference each; it remains a feature.
            max_rows: Rows that are kept.
            alpha: Chance that the scores of a window without drift alarm, over all features
                together; the shares of missing and strange values have as much.
            seed: Of what is drawn at random.
            created: When it is built.
            category_key: A key with which texts are hashed, so that nobody reads them: the service
                has the same in `drift.category_key_env`.
            progress: Told which part of the work is done, from 0 to 1.

        Raises:
            InvalidReference: A column, an option or the frame as a whole cannot be used.
            ValueError: The key has fewer than 16 bytes.
        """
        from mlguard.drift import building

        options = building.BuildOptions(
            categorical=building.names("categorical", categorical),
            features=None if features is None else building.names("features", features),
            predictions=building.names("predictions", predictions),
            scores=building.names("scores", scores),
            time=time,
            timezone=timezone,
            ordered=ordered,
            segment=segment,
            max_rows=max_rows,
            alpha=alpha,
            seed=seed,
        )
        hashing = CategoryHash(category_key) if category_key is not None else None
        if hashing is not None:
            frame = hashing.frame(frame, but=time)
        built = building.build(frame, options, progress)
        moment = created or datetime.now(UTC)
        name = hashing.name if hashing is not None else ""
        return cls(created=moment.isoformat(timespec="seconds"), category_key=name, **built)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one parquet file: the sample, with everything else as JSON in its metadata.

        The file appears whole or not at all. Raises `OSError` where it cannot be written.
        """
        pa, pq = require("pyarrow"), require("pyarrow.parquet")
        names = [feature.name for feature in self.profile]
        about = {
            "format": FORMAT,
            "mlguard": __version__,
            "created": self.created,
            "rows": self.rows,
            "features": self.features,
            "profile": [asdict(feature) for feature in self.profile],
            "seasons": asdict(self.seasons),
            "parts": _apart(names),
            "calibration": self.calibration.to_json(),
            "anytime": self.anytime.to_json() if self.anytime is not self.calibration else None,
            "notes": self.notes,
            "category_key": self.category_key,
        }
        written = {METADATA_KEY: json.dumps(about, allow_nan=False).encode()}
        arrays = [pa.array(self.sample[name], from_pandas=True) for name in names]
        arrays.append(pa.array(self.parts.astype("int32")))
        table = pa.table(arrays, names=[*names, about["parts"]]).replace_schema_metadata(written)
        part = Path(f"{os.fspath(path)}.{os.getpid()}.part")
        try:
            pq.write_table(table, part)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Reference:
        """Read what `save` wrote.

        Raises:
            InvalidReference: The file is missing, damaged, or not a reference.
        """
        about, table = _read(path, with_rows=True)
        try:
            profile = tuple(Feature.of_json(item) for item in about["profile"])
            calibration = Calibration.of_json(about["calibration"])
            anytime = about["anytime"]
            seasons = about["seasons"]
            return cls(
                profile,
                {feature.name: _array(table, feature) for feature in profile},
                int(about["rows"]),
                str(about["created"]),
                Seasons(**{**seasons, "segments": tuple(seasons["segments"])}),
                table[about["parts"]].to_numpy().astype("intp"),
                calibration,
                calibration if anytime is None else Calibration.of_json(anytime),
                tuple(map(str, about["notes"])),
                str(about.get("category_key", "")),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidReference(_damaged(path, error)) from error

    def _repr_html_(self) -> str:
        """Return a table for a notebook: what is compared, and the smallest shift that shows."""
        window = self.calibration.window
        heads = ("feature", "kind", "missing", f"smallest shift in {window:,} rows")
        rows = [
            (
                feature.name,
                feature.kind,
                f"{feature.missing_ratio:.1%}",
                f"{self.calibration.detectable(feature.name, window):.2f}",
            )
            for feature in self.profile
        ]
        said = f"{self.rows:,} rows, thresholds from "
        return f"<p>{said}<b>{self.calibration.source}</b></p>{notebook.table(heads, rows)}"

    @staticmethod
    def peek(path: str | os.PathLike[str]) -> tuple[str, ...]:
        """Read the features' names only: the file's metadata, without its rows.

        Raises:
            InvalidReference: The file is missing, damaged, or not a reference.
        """
        about, _ = _read(path, with_rows=False)
        try:
            return tuple(str(name) for name in about["features"])
        except (KeyError, TypeError) as error:
            raise InvalidReference(_damaged(path, error)) from error

    @staticmethod
    def peek_profile(path: str | os.PathLike[str]) -> tuple[Feature, ...]:
        """Read what is known of each column, without its rows.

        Raises:
            InvalidReference: The file is missing, damaged, or not a reference.
        """
        about, _ = _read(path, with_rows=False)
        try:
            return tuple(Feature.of_json(item) for item in about["profile"])
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidReference(_damaged(path, error)) from error

    @staticmethod
    def peek_key(path: str | os.PathLike[str]) -> str:
        """Read the name of the key that its texts were hashed with; "" where they were not.

        Raises:
            InvalidReference: The file is missing, damaged, or not a reference.
        """
        about, _ = _read(path, with_rows=False)
        return str(about.get("category_key", ""))

    @staticmethod
    def peek_window(path: str | os.PathLike[str]) -> int:
        """Read the rows of the window that it proposes.

        Raises:
            InvalidReference: The file is missing, damaged, or not a reference.
        """
        about, _ = _read(path, with_rows=False)
        try:
            return int(about["calibration"]["window"])
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidReference(_damaged(path, error)) from error


def _apart(names: Sequence[str]) -> str:
    """Return a column's name that no feature has."""
    name = "part"
    while name in names:
        name += "_"
    return name


def _read(path: str | os.PathLike[str], *, with_rows: bool) -> tuple[dict[str, Any], Any]:
    """Return what the metadata says, and the table of rows where wanted."""
    try:
        text = metadata(Path(path), METADATA_KEY)
    except FileNotFoundError as error:
        raise InvalidReference(f"{path} does not exist: make it with `{BUILD_COMMAND}`") from error
    except (OSError, ValueError) as error:
        raise InvalidReference(_damaged(path, error)) from error
    if text is None:
        target = "reference.parquet" if Path(path).name != "reference.parquet" else "built.parquet"
        command = f"mlguard reference build {path} -o {target}"
        message = "is a parquet file but not a reference: make one from it with"
        raise InvalidReference(f"{path} {message} `{command}`")
    return _about(path, text), _rows(path) if with_rows else None


def _rows(path: str | os.PathLike[str]) -> Any:
    pa, pq = require("pyarrow"), require("pyarrow.parquet")
    try:
        with pq.ParquetFile(os.fspath(path)) as file:
            return file.read()
    except (OSError, pa.ArrowException) as error:
        raise InvalidReference(_damaged(path, error)) from error


def _about(path: str | os.PathLike[str], text: bytes) -> dict[str, Any]:
    try:
        about = json.loads(text)
        version = about["format"]
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidReference(_damaged(path, error)) from error
    if version == FORMAT:
        return dict(about)
    message = f"{path} is a reference of format {version!r}, this version of mlguard reads {FORMAT}"
    if version == 1:
        raise InvalidReference(
            f"{message}, which also holds what chance does: make it anew from the training data "
            f"with `{BUILD_COMMAND}` (--time COLUMN where the rows have a time)"
        )
    raise InvalidReference(f"{message}: upgrade, or make it anew with `{BUILD_COMMAND}`")


def _damaged(path: str | os.PathLike[str], error: Exception) -> str:
    what = "must be a parquet file made by"
    return f"{path} {what} `{BUILD_COMMAND}`, and cannot be read as one: {error}"


def _array(table: Any, feature: Feature) -> NDArray[Any]:
    dtype = "float64" if feature.kind == "numeric" else object
    values: NDArray[Any] = table[feature.name].to_numpy()
    return values.astype(dtype)
