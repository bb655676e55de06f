"""How does a person read what happened?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich import box
from rich.console import Console, Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from examples.demo.clients import Tally
from examples.demo.scrape import Scrape, Verdict
from examples.demo.seen import latency
from examples.demo.services import Service
from examples.demo.spans import Span
from examples.demo.thief import Copy

TOLD = ("http.route", "http.response.status_code", "enduser.pseudo.id", "mlguard.")
"""Attributes that are drawn; spans carry more."""


def heading(console: Console, text: str) -> None:
    """Begin a section."""
    console.print()
    console.rule(f"[bold]{text}", align="left", style="cyan")


def note(console: Console, text: str) -> None:
    """Say what a table means."""
    console.print(Padding(Text.from_markup(text, style="dim"), (0, 1)))


def clients(console: Console, got: Mapping[str, Sequence[Tally]]) -> None:
    """What each client got from each framework."""
    table = _table("client", "what it does", *got)
    for tallies in zip(*got.values(), strict=True):
        first = tallies[0]
        table.add_row(first.client, first.behaviour, *(_outcome(t) for t in tallies))
    console.print(table)


def _outcome(tally: Tally) -> Text:
    lines = []
    if tally.answered:
        lines.append(Text(f"{tally.answered} answered", "green"))
    lines += [Text(f"{times}x {code}", "red") for code, times in tally.refused.items()]
    return Text("\n").join(lines)


def quotas(console: Console, got: Mapping[str, Sequence[Tally]], limits: Mapping[str, str]) -> None:
    """What each client has used up."""
    units = {unit: int(rate.split("/")[0]) for unit, rate in limits.items()}
    columns = [f"{unit}\n{framework}" for unit in units for framework in got]
    table = _table("client", *columns, right=range(1, len(columns) + 1))
    for tallies in zip(*got.values(), strict=True):
        if any(t.left for t in tallies):
            cells = [_used(t, unit, limit) for unit, limit in units.items() for t in tallies]
            table.add_row(tallies[0].client, *cells)
    console.print(table)


def _used(tally: Tally, unit: str, limit: int) -> Text:
    if unit not in tally.left:
        return Text("-", "dim")
    used = limit - tally.left[unit]
    return Text(str(used), "red" if used >= limit else "")


def counted(console: Console, scrapes: Mapping[str, Scrape]) -> None:
    """What the services counted, all workers together."""
    table = _table("in /metrics", *scrapes, right=range(1, len(scrapes) + 1))
    for metric, label in (
        ("mlguard_auth_total", "outcome"),
        ("mlguard_quota_refused_total", "code"),
    ):
        kinds = sorted(
            {s.labels[label] for scrape in scrapes.values() for s in scrape.series(metric)}
        )
        for kind in kinds:
            totals = [int(scrape.total(metric, **{label: kind})) for scrape in scrapes.values()]
            if any(totals):
                table.add_row(f'{metric}{{{label}="{kind}"}}', *map(str, totals))
    console.print(table)


def latencies(console: Console, scrapes: Mapping[str, Scrape]) -> None:
    """How long answered requests took."""
    table = _table("milliseconds", "p50", "p95", "p99", right=range(1, 4))
    for framework, scrape in scrapes.items():
        for title, quantiles in latency(scrape).items():
            table.add_row(f"{framework}, {title}", *(f"{1000 * s:.1f}" for s in quantiles.values()))
    console.print(table)


def drift(console: Console, before: Mapping[str, Verdict], after: Mapping[str, Verdict]) -> None:
    """Which features drifted, by framework, before and after the new analyser."""
    columns = [f"{name}\n{when}" for name in after for when in ("before", "after")]
    table = _table("feature", *columns, "threshold", "", right=range(1, len(columns) + 2))
    order = next(iter(after.values())).features
    for feature in sorted(order, key=lambda f: -f.score):
        cells = [_score(v, feature.name) for name in after for v in (before[name], after[name])]
        verdict = "[bold red]drifted" if feature.detected else ""
        table.add_row(feature.name, *cells, f"{feature.threshold:.2f}", verdict)
    console.print(table)


def _score(verdict: Verdict, name: str) -> Text:
    for feature in verdict.features:
        if feature.name == name:
            return Text(f"{feature.score:.2f}", "bold red" if feature.detected else "")
    return Text("-", "dim")


def copies(console: Console, unasked: Copy, stolen: Mapping[str, Copy], free: Copy) -> None:
    """How often the thief's copies say what the model says."""
    table = _table("the copycat's copy", "answers used", "agrees with the model", right=(1, 2))
    table.add_row("from his own patients only", "0", f"{unasked.agreement:.0%}")
    for framework, copy in stolen.items():
        table.add_row(
            f"through {framework}, until refused", f"{copy.rows}", f"{copy.agreement:.0%}"
        )
    table.add_row("if there were no quota", f"{free.rows:,}", f"[bold red]{free.agreement:.0%}")
    console.print(table)


def trace(console: Console, identifier: str, spans: Sequence[Span]) -> None:
    """Draw one trace as a tree."""
    if not spans:
        console.print("no trace arrived", style="red")
        return
    tree = Tree(f"[dim]trace {identifier}[/]", guide_style="cyan")
    nodes: dict[bytes, Tree] = {}
    for span in sorted(spans, key=lambda s: s.began):
        nodes[span.span] = nodes.get(span.parent, tree).add(_span(span))
    console.print(Padding(tree, (0, 1)))


def _span(span: Span) -> Group:
    said = [f"{k} = {v}" for k, v in sorted(span.attributes.items()) if k.startswith(TOLD)]
    title = Text.assemble((span.name, "bold"), f"   {1000 * span.seconds:.2f} ms")
    return Group(title, *(Text(line, "dim") for line in said))


def where_next(console: Console, services: Sequence[Service], folder: Path, serving: bool) -> None:
    """Say where to look now."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 1))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for service in services:
        name = service.framework.lower()
        metrics = f"{service.url}/metrics" if serving else str(folder / f"metrics-{name}.txt")
        table.add_row(f"{service.framework}, its /metrics", metrics)
        table.add_row(f"{service.framework}, its drift report", str(folder / f"drift-{name}.html"))
    table.add_row("All of the above for programs", str(folder / "summary.json"))
    table.add_row("The code of the services", "examples/fastapi_service.py and flask_service.py")
    table.add_row("Their settings", "examples/mlguard.toml")
    table.add_row("Jaeger, Prometheus, alerts", "examples/observability/README.md")
    if not serving:
        table.add_row("Play with them yourself", "make demo ARGS=--serve")
    console.print(table)


def curl(console: Console, services: Sequence[Service], token: str, body: str) -> None:
    """Give lines to copy: unbroken, without colours."""
    lines = [f"export TOKEN={token}"]
    lines += [
        f'curl -i {service.url}/predict -H "Authorization: Bearer $TOKEN" '
        f"-H 'Content-Type: application/json' -d '{body}'"
        for service in services
    ]
    for line in lines:
        console.print(f"\n{line}", soft_wrap=True, highlight=False, markup=False)
    console.print()


def _table(*columns: str, right: Sequence[int] = ()) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index in right else "left")
    return table
