"""What did training look like?"""

from __future__ import annotations

import json
import math
import numbers
import os
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from mlguard import __version__
from mlguard.errors import InvalidReference, MissingExtra
from mlguard.messages import MAX_CATEGORY_LENGTH

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from types import ModuleType

    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

Kind: TypeAlias = Literal["numeric", "categorical"]

FORMAT = 1
METADATA_KEY = b"mlguard"
MAX_CATEGORIES = 100
MAX_LEVELS = 5
RARE = 10
BUILD_COMMAND = "mlguard reference build data.csv -o reference.parquet"


@dataclass(frozen=True, slots=True)
class Feature:
    """One input of the model, as training had it. Counts are of all training rows.

    Attributes:
        name: The column's name.
        kind: "numeric" or "categorical".
        missing: Rows without a usable value.
        present: Rows with one; infinities are among them.
        counted: Rows that `novel` and `categories` count: all that are present; where more than 100
            categories were cut to the most frequent, only the half of the sample that had no say
            in which ones, as the winners of a count are overestimated by it.
        novel: Rows that would be out of range, or of an unseen category, if they were not part of
            the reference themselves (the leave-one-out count): what new rows of the same kind do.
        low: Smallest finite value; 0 for a categorical feature.
        high: Largest finite value; 0 for a categorical feature.
        levels: The distinct values of the sample, ascending, where a numeric feature has at most
            5 of them; else empty.
        categories: Each category with its rows, the most frequent first, at most 100. Where they
            were cut, those of fewer than 10 rows are left out too.
    """

    name: str
    kind: Kind
    missing: int
    present: int
    counted: int
    novel: int
    low: float = 0.0
    high: float = 0.0
    levels: tuple[float, ...] = ()
    categories: tuple[tuple[str, int], ...] = ()

    @property
    def missing_ratio(self) -> float:
        """Return the share of rows without a usable value."""
        return self.missing / (self.missing + self.present)

    @property
    def shares(self) -> dict[str, float]:
        """Return each kept category's share of the rows that have a value."""
        return {category: rows / max(self.counted, 1) for category, rows in self.categories}

    @property
    def is_cut(self) -> bool:
        """Say whether categories were left out, and the sample's first half chose which."""
        return self.counted < self.present


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """The training data in small: a profile of every feature and a sample of the rows.

    Attributes:
        profile: The features, in the order in which the model takes them.
        sample: Sampled rows in random order, column by column and aligned: float64 with NaN for
            missing where numeric, str with None for missing where categorical.
        rows: Rows of the training data, of which the sample is a part.
        created: When it was built, ISO 8601 in UTC.
    """

    profile: tuple[Feature, ...]
    sample: Mapping[str, NDArray[Any]]
    rows: int
    created: str

    @property
    def features(self) -> tuple[str, ...]:
        """Return the features' names, in the order in which the model takes them."""
        return tuple(feature.name for feature in self.profile)

    def comparable(self, feature: Feature) -> NDArray[Any]:
        """Return the feature's sampled values, without those that chose its categories."""
        values = self.sample[feature.name]
        return values[len(values) // 2 :] if feature.is_cut else values

    @classmethod
    def build(
        cls,
        frame: pd.DataFrame | Mapping[str, Sequence[object]],
        *,
        categorical: Iterable[str] = (),
        max_rows: int = 10_000,
        seed: int = 0,
        created: datetime | None = None,
    ) -> Reference:
        """Profile `frame`, one row per training example and one column per feature.

        Columns of strings, objects, categories and booleans are categorical, and so are the ones
        named in `categorical`. At most `max_rows` rows are kept as the sample.

        Raises:
            InvalidReference: A column, an option or the frame as a whole cannot be used.
        """
        np = _require("numpy")
        if max_rows < 1:
            raise InvalidReference(f"max_rows={max_rows!r} must be at least 1")
        columns = _columns(frame)
        named = _named(categorical, columns)
        rows = len(next(iter(columns.values())))
        kept = np.random.default_rng(seed).permutation(rows)[:max_rows]
        profile: list[Feature] = []
        sample: dict[str, NDArray[Any]] = {}
        for name, column in columns.items():
            if name in named or _is_categorical(column):
                values = _categories(column)
                feature = _categorical(name, values, values[kept])
            else:
                values = _numbers(name, column)
                feature = _numeric(name, values, values[kept])
            sample[name] = values[kept]
            profile.append(feature)
        moment = created or datetime.now(UTC)
        return cls(tuple(profile), sample, rows, moment.isoformat(timespec="seconds"))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one parquet file: the sample, with the profile as JSON in its metadata.

        The file appears whole or not at all. Raises `OSError` where it cannot be written.
        """
        pa, pq = _require("pyarrow"), _require("pyarrow.parquet")
        about = {
            "format": FORMAT,
            "mlguard": __version__,
            "created": self.created,
            "rows": self.rows,
            "features": self.features,
            "profile": [asdict(feature) for feature in self.profile],
        }
        metadata = {METADATA_KEY: json.dumps(about, allow_nan=False).encode()}
        arrays = [pa.array(self.sample[name], from_pandas=True) for name in self.features]
        table = pa.table(arrays, names=list(self.features)).replace_schema_metadata(metadata)
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
            profile = tuple(_feature(item) for item in about["profile"])
            sample = {feature.name: _array(table, feature) for feature in profile}
            return cls(profile, sample, int(about["rows"]), str(about["created"]))
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidReference(_damaged(path, error)) from error

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


def to_number(value: object) -> float:
    """Read one numeric value; NaN where it is missing or junk (strings, lists, null).

    A string is junk even if it spells a number: a model that was trained on numbers fails on it.
    Integers beyond the range of a float are infinite.
    """
    if isinstance(value, float):
        return float(value)
    plain = _plain(value)
    if not _is_number(plain):
        return math.nan
    try:
        return float(plain)
    except OverflowError:
        return math.inf if plain > 0 else -math.inf
    except ValueError:
        return math.nan


def to_category(value: object) -> str | None:
    """Read one category in its text form; None where it is missing or junk.

    `1`, `1.0`, `True` and `"1"` are one category, as JSON, NumPy and CSV files turn each into
    the other. Text is taken as it stands, and cut at 256 characters.
    """
    plain = _plain(value)
    if isinstance(plain, str):
        return _text(plain)
    if isinstance(plain, numbers.Integral):
        whole = int(plain)
        return hex(whole) if abs(whole) > 1 << 128 else str(whole)
    if not _is_number(plain):
        return None
    number = to_number(plain)
    if math.isnan(number):
        return None
    return str(int(number)) if number.is_integer() and abs(number) < 1e15 else repr(number)


def _text(value: str) -> str:
    """Cut the text, and make it encodable: JSON may carry half of a surrogate pair."""
    value = value[:MAX_CATEGORY_LENGTH]
    return str(value) if value.isascii() else value.encode("utf-8", "replace").decode()


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real | Decimal)


def _plain(value: Any) -> Any:
    """Unwrap a NumPy scalar; leave everything else."""
    is_scalar = type(value).__module__ == "numpy" and getattr(value, "ndim", 1) == 0
    return value.item() if is_scalar else value


def _columns(frame: pd.DataFrame | Mapping[str, Sequence[object]]) -> dict[str, pd.Series]:
    pandas = _require("pandas")
    try:
        table = pandas.DataFrame(frame)
    except (TypeError, ValueError) as error:
        message = f"the training data is not a table: {error}; give columns of equal length"
        raise InvalidReference(message) from error
    names = [str(name) for name in table.columns]
    if not names:
        raise InvalidReference("the training data has no columns: give one column per feature")
    for name, times in Counter(names).items():
        if times > 1:
            raise InvalidReference(f"column {name!r} is there {times} times: rename or drop one")
    if not len(table):
        raise InvalidReference("the training data has no rows: give at least one per category")
    return {name: table.iloc[:, i] for i, name in enumerate(names)}


def _named(categorical: Iterable[str], columns: Collection[str]) -> set[str]:
    if isinstance(categorical, str):
        raise InvalidReference(f"categorical={categorical!r} must be a list of column names")
    named = {str(name) for name in categorical}
    for name in sorted(named):
        if name not in columns:
            there = ", ".join(list(columns)[:20])
            message = f"categorical names the column {name!r}, which is not there: use one of"
            raise InvalidReference(f"{message} {there}")
    return named


def _is_categorical(column: pd.Series) -> bool:
    types = _require("pandas").api.types
    return bool(
        types.is_bool_dtype(column)
        or types.is_object_dtype(column)
        or types.is_string_dtype(column)
        or isinstance(column.dtype, _require("pandas").CategoricalDtype)
    )


def _numbers(name: str, column: pd.Series) -> NDArray[np.float64]:
    pandas = _require("pandas")
    types = pandas.api.types
    if not types.is_numeric_dtype(column) or types.is_complex_dtype(column):
        advice = "turn it into a number, name it as categorical or drop it"
        raise InvalidReference(f"column {name!r} holds {column.dtype} values: {advice}")
    values: NDArray[np.float64] = column.to_numpy(dtype="float64", na_value=math.nan)
    return values


def _categories(column: pd.Series) -> NDArray[Any]:
    values: NDArray[Any] = _require("numpy").empty(len(column), dtype=object)
    values[:] = [to_category(value) for value in column.tolist()]
    return values


def _numeric(name: str, values: NDArray[np.float64], sampled: NDArray[np.float64]) -> Feature:
    np = _require("numpy")
    present = values[~np.isnan(values)]
    if not len(present):
        raise InvalidReference(f"column {name!r} has no value in any row: fill it or drop it")
    finite = present[np.isfinite(present)]
    if not len(finite):
        raise InvalidReference(f"column {name!r} holds only infinite values: fix it or drop it")
    low, high = float(finite.min()), float(finite.max())
    # Without itself, the only row at an end of the range would be out of range.
    ends = {end for end in (low, high) if np.count_nonzero(finite == end) == 1}
    levels = np.unique(sampled[np.isfinite(sampled)])
    return Feature(
        name=name,
        kind="numeric",
        missing=len(values) - len(present),
        present=len(present),
        counted=len(present),
        novel=len(present) - len(finite) + len(ends),
        low=low,
        high=high,
        levels=tuple(levels.tolist()) if len(levels) <= MAX_LEVELS else (),
    )


def _categorical(name: str, values: NDArray[Any], sampled: NDArray[Any]) -> Feature:
    counts = _counts(values)
    present = counts.total()
    if not present:
        raise InvalidReference(f"column {name!r} has no usable value: fill it or drop it")
    kept = counts
    if len(counts) > MAX_CATEGORIES:
        counts = _counts(sampled[len(sampled) // 2 :])
        chosen = _ranked(kept - counts)[:MAX_CATEGORIES]
        kept = Counter({name: counts[name] for name, rows in chosen if rows >= RARE})
        novel = counts.total() - kept.total()
    else:
        novel = sum(rows for rows in counts.values() if rows == 1)
    return Feature(
        name=name,
        kind="categorical",
        missing=len(values) - present,
        present=present,
        counted=counts.total(),
        novel=novel,
        categories=tuple(_ranked(kept)),
    )


def _counts(values: NDArray[Any]) -> Counter[str]:
    return Counter(value for value in values.tolist() if value is not None)


def _ranked(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _read(path: str | os.PathLike[str], *, with_rows: bool) -> tuple[dict[str, Any], Any]:
    """Return what the metadata says, and the table of rows where wanted."""
    try:
        text = _metadata(Path(path))
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
    pa, pq = _require("pyarrow"), _require("pyarrow.parquet")
    try:
        with pq.ParquetFile(os.fspath(path)) as file:
            return file.read()
    except (OSError, pa.ArrowException) as error:
        raise InvalidReference(_damaged(path, error)) from error


def _metadata(path: Path) -> bytes | None:
    """Read our entry of a parquet file's footer; None where it has none.

    Its length and the magic number are the file's end; in it, keys and values are binary fields of
    Thrift's compact protocol, each behind its length. So no worker needs pyarrow for a few names.

    Raises:
        OSError: There is no such file.
        ValueError: It is no parquet file.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 8))
        end = file.read()
        length = int.from_bytes(end[:4], "little")
        if end[4:] != b"PAR1" or length + 12 > size:
            raise ValueError("it does not end as a parquet file does")
        file.seek(size - 8 - length)
        footer = file.read(length)
    key = b"\x18%c%s\x18" % (len(METADATA_KEY), METADATA_KEY)
    _, found, rest = footer.partition(key)
    return _binary(rest) if found else None


def _binary(rest: bytes) -> bytes:
    length = shift = at = 0
    while True:
        byte = rest[at] if at < len(rest) else 0
        length |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            break
    if at + length > len(rest):
        raise ValueError("its metadata is cut off")
    return rest[at : at + length]


def _about(path: str | os.PathLike[str], text: bytes) -> dict[str, Any]:
    try:
        about = json.loads(text)
        version = about["format"]
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidReference(_damaged(path, error)) from error
    if version != FORMAT:
        message = f"is a reference of format {version!r}, this version of mlguard reads {FORMAT}"
        raise InvalidReference(f"{path} {message}: upgrade, or make it anew with `{BUILD_COMMAND}`")
    return dict(about)


def _damaged(path: str | os.PathLike[str], error: Exception) -> str:
    what = "must be a parquet file made by"
    return f"{path} {what} `{BUILD_COMMAND}`, and cannot be read as one: {error}"


def _feature(item: Mapping[str, Any]) -> Feature:
    levels = tuple(float(level) for level in item["levels"])
    categories = tuple((str(category), int(rows)) for category, rows in item["categories"])
    return Feature(**{**item, "levels": levels, "categories": categories})


def _array(table: Any, feature: Feature) -> NDArray[Any]:
    dtype = "float64" if feature.kind == "numeric" else object
    values: NDArray[Any] = table[feature.name].to_numpy()
    return values.astype(dtype)


def _require(module: str) -> ModuleType:
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError as error:
        message = f"a reference needs {module}: pip install 'mlguard-core[drift]'"
        raise MissingExtra(message) from error
