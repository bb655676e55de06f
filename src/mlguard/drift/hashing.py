"""How are categories compared that nobody is to read?"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from mlguard.messages import MAX_CATEGORY_LENGTH

if TYPE_CHECKING:
    import pandas as pd

LEAST = 16  # bytes of a key
_REMEMBERED = 10_000


class CategoryHash:
    """Puts a keyed hash in the place of each text: equal texts stay equal, and cannot be read.

    Numbers, truths and what is missing stay as they are. Who has the key can try out what a hash
    may be of.

    Args:
        key: Of the reference and of all who compare with it: at least 16 bytes.

    Attributes:
        name: Tells keys apart, without telling them.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) < LEAST:
            raise ValueError(f"a key of categories must have at least {LEAST} bytes")
        self._key = hashlib.blake2b(key, digest_size=32).digest()
        self._digest = lru_cache(_REMEMBERED)(self._digested)
        self.name = self._digested("")

    def value(self, value: object) -> object:
        """Hash a text; return anything else."""
        return self._digest(value[:MAX_CATEGORY_LENGTH]) if isinstance(value, str) else value

    def row(self, values: Any) -> Any:
        """Hash the texts of a row, which is a list or goes by names."""
        if isinstance(values, Mapping):
            return {name: self.value(value) for name, value in values.items()}
        return list(map(self.value, values)) if isinstance(values, list | tuple) else values

    def frame(self, frame: Any, *, but: str | None = None) -> pd.DataFrame:
        """Hash the texts of a table, but of one column."""
        import pandas as pd
        from pandas.api.types import is_numeric_dtype

        table = pd.DataFrame(frame)
        names = [n for n in table.columns if n != but and not is_numeric_dtype(table[n].dtype)]
        return table.assign(**{n: table[n].astype(object).map(self.value) for n in names})

    def _digested(self, text: str) -> str:
        written = text.encode("utf-8", "replace")
        return hashlib.blake2b(written, key=self._key, digest_size=12).hexdigest()
