"""What did the windows before say?"""

from __future__ import annotations

import json
import os
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlguard.drift.verdict import Verdict

MOST = 200  # windows


@dataclass(frozen=True, slots=True)
class Past:
    """What one window said.

    Attributes:
        when: When it was judged, in seconds since 1970.
        rows: Its rows.
        features: By feature: its score as a multiple of its threshold, and whether it drifted.
    """

    when: float
    rows: int
    features: Mapping[str, tuple[float, bool]]


class History:
    """The last windows of one model, in a file; it holds no value of any row.

    Args:
        path: Where; a line of JSON a window. A line that cannot be read is passed over.
        most: Windows that are kept.
    """

    def __init__(self, path: Path, most: int = MOST) -> None:
        self._path = path
        self._lines: deque[str] = deque(maxlen=most)
        if path.exists():
            self._lines.extend(path.read_text(encoding="utf-8", errors="replace").splitlines())

    def add(self, verdict: Verdict, when: float) -> None:
        """Add a window; an OSError where the file cannot be written."""
        features = {f.name: (f.score / f.threshold, f.detected) for f in verdict.features}
        self._lines.append(json.dumps([when, verdict.rows, features]))
        part = self._path.with_name(f".{self._path.name}.{os.getpid()}.part")
        part.write_text("\n".join(self._lines) + "\n", encoding="utf-8")
        part.replace(self._path)

    @property
    def windows(self) -> list[Past]:
        """All windows that are kept, the oldest first."""
        return [past for line in self._lines if (past := _read(line)) is not None]


def _read(line: str) -> Past | None:
    try:
        when, rows, features = json.loads(line)
        read = {str(name): _judged(found) for name, found in features.items()}
        return Past(float(when), int(rows), read)
    except (ValueError, TypeError, AttributeError):
        return None


def _judged(found: Any) -> tuple[float, bool]:
    score, detected = found
    return float(score), bool(detected)
