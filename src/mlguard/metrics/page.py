"""How are numbers written for Prometheus, at little cost?

Of a page only the values are new: labels were written for an earlier page. Rare
kinds of metrics, and names that need quoting, are written by prometheus-client.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

from prometheus_client.utils import floatToGoString

Write = Callable[[Iterable[dict[str, Any]]], bytes]

_TYPES = frozenset(("counter", "gauge", "histogram"))
_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*").fullmatch
_END = b"# EOF\n"
_PLAIN = 1e6  # whole numbers below are written without an exponent


class Labels(dict[str, str]):
    """Labels that stay, and are written once.

    Attributes:
        written: As they stand on a page.
    """

    __slots__ = ("written",)

    def __init__(self, labels: Mapping[str, str]) -> None:
        super().__init__(labels)
        self.written = _written(tuple(labels.items()))


def write(families: Iterable[dict[str, Any]], library: Write, *, has_exemplars: bool) -> bytes:
    """Write a page.

    Args:
        families: What is told.
        library: Writes what is not common.
        has_exemplars: Whether it is OpenMetrics, which has exemplars and an end.
    """
    lines: list[str] = []
    for family in families:
        if _is_common(family):
            _write(lines, family, has_exemplars=has_exemplars)
        else:
            lines.append(library([family]).removesuffix(_END if has_exemplars else b"").decode())
    page = "".join(lines).encode()
    return page + _END if has_exemplars else page


def _is_common(family: dict[str, Any]) -> bool:
    name = family["name"]
    names = frozenset([sample["name"] for sample in family["samples"]])
    return family["type"] in _TYPES and _are_plain(name, names)


@lru_cache(1024)
def _are_plain(name: str, samples: frozenset[str]) -> bool:
    odd = (f"{name}_created", f"{name}_gsum", f"{name}_gcount")
    return all(_NAME(n) and n not in odd for n in (name, *samples))


def _write(lines: list[str], family: dict[str, Any], *, has_exemplars: bool) -> None:
    kind = family["type"]
    name = family["name"] if has_exemplars or kind != "counter" else f"{family['name']}_total"
    lines.append(_head(name, kind, family["help"], has_exemplars))
    for sample in family["samples"]:
        labels, value = sample["labels"], sample["value"]
        said = labels.written if type(labels) is Labels else _remembered(tuple(labels.items()))
        number = _count(value) if type(value) is int else _number(value)
        if has_exemplars and sample.get("exemplar"):
            number += _after(sample["exemplar"])
        lines.append(f"{sample['name']}{said} {number}\n")


@lru_cache(1024)
def _head(name: str, kind: str, text: str, is_open: bool) -> str:
    escaped = text.replace("\\", r"\\").replace("\n", r"\n")
    if is_open:
        escaped = escaped.replace('"', r"\"")
    return f"# HELP {name} {escaped}\n# TYPE {name} {kind}\n"


def _written(labels: tuple[tuple[str, str], ...]) -> str:
    said = ",".join(f'{label}="{_escaped(value)}"' for label, value in sorted(labels))
    return f"{{{said}}}" if said else ""


_remembered = lru_cache(32_768)(_written)


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(value: float) -> str:
    if value and -_PLAIN < value < _PLAIN and value == int(value):
        return f"{int(value)}.0"
    return str(floatToGoString(value))  # type: ignore[no-untyped-call]


_count = lru_cache(4096)(_number)  # many buckets hold the same


def _after(exemplar: dict[str, Any]) -> str:
    labels = ",".join(f'{k}="{_escaped(v)}"' for k, v in sorted(exemplar["labels"].items()))
    moment = exemplar["timestamp"]
    said = f" # {{{labels}}} {_number(exemplar['value'])}"
    return said if moment is None else f"{said} {moment}"
