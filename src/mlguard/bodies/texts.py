"""What does a value say that arrived as text, in a form, a query or CSV?"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from typing import Any, TypeAlias

from mlguard.drift.profile import Feature
from mlguard.drift.values import to_category

Reader: TypeAlias = Callable[[Any], Any]
"""Reads one value; what makes no sense stays as it is, and is judged as a strange value."""

_TRUTHS = {"true": True, "false": False, "on": True, "off": False}


def number(value: Any) -> Any:
    """Read what stands for a number: blank is missing."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if not text:
        return None
    if text.lower() in _TRUTHS:
        return _TRUTHS[text.lower()]
    try:
        return float(text) if "_" not in text else value
    except ValueError:
        return value


def category(known: Container[str]) -> Reader:
    """Make what reads a category: as it stands, or as the number or truth that training had."""

    def read(value: Any) -> Any:
        if not isinstance(value, str) or value in known:
            return value
        text = value.strip()
        if not text or text in known:
            return text or None
        said = number(text)
        return said if to_category(said) in known else text

    return read


def readers_of(profile: Iterable[Feature]) -> dict[str, Reader]:
    """Make what reads each of a model's inputs, in their order."""
    return {
        feature.name: number
        if feature.kind == "numeric"
        else category({name for name, _ in feature.categories})
        for feature in profile
        if feature.role == "input"
    }
