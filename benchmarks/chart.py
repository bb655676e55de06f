"""How does it look? A chart that needs nothing but a browser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from benchmarks.contestants import BARE, HAND, OTEL, OURS

WIDTH, LEFT, RIGHT = 860, 250, 110
BAR, GAP, HEAD = 20, 8, 52
STYLE = """
    .back { fill: #ffffff; } .title { fill: #1f2328; font-weight: 600; } .name { fill: #1f2328; }
    .figure { fill: #57606a; font-size: 12px; } .other { fill: #afb8c1; } .ours { fill: #0969da; }
    @media (prefers-color-scheme: dark) {
      .back { fill: #0d1117; } .title, .name { fill: #e6edf3; } .figure { fill: #9198a1; }
      .other { fill: #57606a; } .ours { fill: #4493f8; }
    }
"""


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar.

    Attributes:
        name: Stands before it.
        value: Its length.
        text: Stands behind it.
    """

    name: str
    value: float
    text: str


def chart(parts: Mapping[str, Any]) -> str:
    """Draw what a run found; empty where it found nothing to draw."""
    groups = [*_overhead(parts.get("overhead", {})), *_servers(parts.get("servers", {}))]
    return draw(groups) if groups else ""


def _overhead(figures: Mapping[str, Any]) -> list[tuple[str, list[Bar]]]:
    groups = []
    for framework, found in figures.items():
        micros = {name: found["added_micros"][name]["median"] for name in (HAND, OTEL, OURS)}
        bars = [Bar(name, value, f"{value:.0f} µs") for name, value in micros.items()]
        groups.append((f"{framework}: CPU time added to a request", bars))
    return groups


def _servers(figures: Mapping[str, Any]) -> list[tuple[str, list[Bar]]]:
    groups = []
    for server, found in figures.items():
        shares = {name: found["share_of_bare"][name]["median"] for name in (HAND, OTEL, OURS)}
        bars = [Bar(BARE, 1.0, f"{found['requests_a_second'][BARE]['median']:.0f} requests/s")]
        bars += [Bar(name, value, f"{value:.2f} of bare") for name, value in shares.items()]
        groups.append((f"{server}: requests a second, one worker, 8 connections", bars))
    return groups


def draw(groups: Sequence[tuple[str, Sequence[Bar]]]) -> str:
    """Draw groups of bars, each to a scale of its own."""
    top, lines = 0, []
    for title, bars in groups:
        lines.append(f'<text class="title" x="16" y="{top + 32}">{escape(title)}</text>')
        lines += _bars(bars, top + HEAD - 8)
        top += HEAD + len(bars) * (BAR + GAP)
    size = f'viewBox="0 0 {WIDTH} {top + 16}"'
    told = "; ".join(f"{t}: " + ", ".join(f"{b.name} {b.text}" for b in bars) for t, bars in groups)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="system-ui, sans-serif" '
        f'font-size="14" role="img" aria-label="{escape(told, quote=True)}">'
    )
    back = f'<rect class="back" width="{WIDTH}" height="{top + 16}"/>'
    body = "\n  ".join([f"<style>{STYLE}  </style>", back, *lines])
    return f"{head}\n  {body}\n</svg>\n"


def _bars(bars: Sequence[Bar], top: int) -> list[str]:
    longest = max(bar.value for bar in bars)
    lines = []
    for number, bar in enumerate(bars):
        y = top + number * (BAR + GAP)
        width = round((WIDTH - LEFT - RIGHT) * max(bar.value, 0) / longest)
        kind = "ours" if bar.name == OURS else "other"
        lines += [
            f'<text class="name" x="16" y="{y + 15}">{escape(bar.name)}</text>',
            f'<rect class="{kind}" x="{LEFT - 50}" y="{y}" width="{width}" height="{BAR}" rx="3"/>',
            f'<text class="figure" x="{LEFT - 42 + width}" y="{y + 15}">{escape(bar.text)}</text>',
        ]
    return lines
