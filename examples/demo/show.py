"""How does a person read what happened? In 80 columns, and the same in a pipe."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from examples.demo.clients import Tally
from examples.demo.scrape import Scrape, Verdict
from examples.demo.seen import latency
from examples.demo.services import Service
from examples.demo.spans import Span
from examples.demo.thief import Copy

WIDTH = 80  # characters
TOLD = {
    "http.response.status_code": "status",
    "enduser.pseudo.id": "caller",
    "mlguard.model.version": "version",
    "mlguard.inference.rows": "rows",
}
"""Attributes that are shown, and how they are called; spans carry more."""


def heading(console: Console, text: str) -> None:
    """Begin a section."""
    say(console, "")
    say(console, Text(text, "bold cyan"))


def note(console: Console, text: str) -> None:
    """Say what a table means."""
    for line in textwrap.wrap(text, WIDTH - 2, break_long_words=False, break_on_hyphens=False):
        say(console, Text(f"  {line}", "dim"))


def say(console: Console, line: str | Text) -> None:
    """Print a line as it is: neither broken nor filled up."""
    console.print(line, soft_wrap=True, highlight=False, markup=False)


def table(
    console: Console, lines: Sequence[Sequence[str | Text]], right: Sequence[int] = ()
) -> None:
    """Print lines of cells below each other; those of some columns end together."""
    rows = [[cell if isinstance(cell, Text) else Text(cell) for cell in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        for index, (cell, width) in enumerate(zip(row, widths, strict=True)):
            cell.align("right" if index in right else "left", width)
        line = Text("  ") + Text("  ").join(row)
        line.rstrip()
        say(console, line)


def copies(console: Console, unasked: Copy, stolen: Mapping[str, Copy], free: Copy) -> None:
    """How often the thief's copies say what the model says."""
    lines = [
        ("the copycat's copy", "answers", "agrees with the model"),
        ("from his own patients only", "0", f"{unasked.agreement:.0%}"),
        *(
            (f"through {framework}, until refused", str(copy.rows), f"{copy.agreement:.0%}")
            for framework, copy in stolen.items()
        ),
        ("if there were no quota", f"{free.rows:,}", Text(f"{free.agreement:.0%}", "bold red")),
    ]
    table(console, lines, right=(1, 2))


def drift(console: Console, before: Mapping[str, Verdict], after: Mapping[str, Verdict]) -> None:
    """Which features drifted, by framework, before and after the new monitors."""
    order = sorted(next(iter(after.values())).features, key=lambda f: -f.score)
    loud, quiet = [f for f in order if f.detected], [f for f in order if not f.detected]
    lines: list[list[str | Text]] = [["score of a window of rows", "limit", *after, ""]]
    for feature in loud:
        moves = [_move(before[n], after[n], [feature.name]) for n in after]
        drifted = Text("drifted", "bold red")
        lines.append([feature.name, f"{feature.threshold:.2f}", *moves, drifted])
    moves = [_move(before[n], after[n], [f.name for f in quiet]) for n in after]
    lines.append([f"{len(quiet)} others, at most", "", *moves, "below theirs"])
    table(console, lines, right=(1,))


def _move(before: Verdict, after: Verdict, names: Sequence[str]) -> str:
    """Tell the largest score of some features, before and after."""
    scores = [[f.score for f in v.features if f.name in names] for v in (before, after)]
    return " → ".join(f"{max(some):.2f}" if some else "-" for some in scores)


def clients(console: Console, got: Mapping[str, Sequence[Tally]]) -> None:
    """What each client got: in one line where the frameworks decided alike."""
    outcomes = {framework: [*_outcomes(tallies)] for framework, tallies in got.items()}
    first, *others = outcomes.values()
    alike = [pair for pair in first if all(pair in other for other in others)]
    apart = [
        (f"{who}, {framework}", what)
        for framework, found in outcomes.items()
        for who, what in found
        if (who, what) not in alike
    ]
    lines = [(who, _coloured(what)) for who, what in (*alike, *apart)]
    table(console, [("client", f"what it gets of {' and of '.join(got)}"), *lines])


def _outcomes(tallies: Sequence[Tally]) -> Iterator[tuple[str, str]]:
    """Tell what each got, those of one kind that got the same together."""
    names: dict[tuple[str, str], list[str]] = {}
    for tally in tallies:
        refused = [f"{n}x {code}" if n > 1 else code for code, n in tally.refused.items()]
        answered = [f"{tally.answered} answered"] if tally.answered else []
        told = ", ".join([*answered, *refused])
        names.setdefault((tally.behaviour, told), []).append(tally.client)
    for (_, told), who in names.items():
        if len(who) > 1:
            yield f"{len(who)} {who[0].partition(' ')[0]}s", f"{told} each"
        else:
            yield who[0], told


def _coloured(told: str) -> Text:
    text = Text(told)
    text.highlight_regex(r"\d+ answered", "green")
    text.highlight_regex(r"(\d+x )?\d+ [a-z]+_\w+", "red")
    return text


def trace(console: Console, identifier: str, spans: Sequence[Span]) -> None:
    """Draw one trace as a tree."""
    if not spans:
        say(console, Text("  no trace arrived", "red"))
        return
    depths: dict[bytes, int] = {}
    say(console, Text(f"  trace {identifier}", "dim"))
    for span in sorted(spans, key=lambda s: s.began):
        depth = depths[span.span] = depths.get(span.parent, -1) + 1
        told = ", ".join(f"{word} {span.attributes[k]}" for k, word in TOLD.items()
                         if k in span.attributes)  # fmt: skip
        branch = Text(f"  {'    ' * depth}└── ", "cyan")
        say(console, branch + Text.assemble(
            (span.name, "bold"), f" {1000 * span.seconds:.1f} ms  ", (told, "dim")))  # fmt: skip


def latencies(console: Console, scrapes: Mapping[str, Scrape]) -> None:
    """How long answered requests took."""
    lines = [("milliseconds, of half and of 95 %", "whole request", "inference")]
    for framework, scrape in scrapes.items():
        cells = [
            f"{1000 * quantiles['p50']:.1f}  {1000 * quantiles['p95']:.1f}"
            for quantiles in latency(scrape).values()
        ]
        lines.append((framework, cells[0], cells[1]))
    table(console, lines, right=(1, 2))


def where_next(console: Console, services: Sequence[Service], folder: Path, serving: bool) -> None:
    """Say where to look now."""
    lines = []
    for service in services:
        name = service.framework.lower()
        lines.append((f"{service.framework}'s drift report", _short(folder / f"drift-{name}.html")))
        if serving:
            lines.append((f"{service.framework}'s metrics", f"{service.url}/metrics"))
    if not serving:
        lines.append(("metrics, logs, summary.json", _short(folder)))
        lines.append(("play with them yourself", "make demo ARGS=--serve"))
    lines.append(("the services and their settings", "examples/README.md"))
    table(console, lines)


def _short(path: Path) -> str:
    """Name a file as it is from here."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def curl(console: Console, services: Sequence[Service], token: str, body: str) -> None:
    """Give lines to copy: unbroken, without colours."""
    lines = [f"export TOKEN={token}"]
    lines += [
        f'curl -i {service.url}/predict -H "Authorization: Bearer $TOKEN" '
        f"-H 'Content-Type: application/json' -d '{body}'"
        for service in services
    ]
    for line in lines:
        say(console, f"\n{line}")
    say(console, "")
