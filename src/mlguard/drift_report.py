"""What does a drift check look like to a person?"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from mlguard.drift import novel, ranks, read, split
from mlguard.reference import to_category

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    import numpy as np
    from numpy.typing import NDArray

    from mlguard.drift import FeatureVerdict, Verdict, Window
    from mlguard.reference import Feature, Reference

BINS = 28
BARS = 7
NEWCOMERS = 3
NAME_LENGTH = 60

_STYLE = """
:root{color-scheme:light dark;--page:#f5f6f8;--card:#fff;--ink:#1b2230;--soft:#657084;
--line:#dfe3ea;--ref:#b3bccb;--win:#2f6fde;--bad:#c92a3b;--tint:#fdecee;--good:#1a7f4b}
@media(prefers-color-scheme:dark){:root{--page:#12151b;--card:#1b2029;--ink:#e7eaf0;
--soft:#97a1b3;--line:#2d3440;--ref:#4d586b;--win:#6ea3ff;--bad:#ff7582;--tint:#3a1f26;
--good:#57cf91}}
*{box-sizing:border-box}
body{margin:0 auto;padding:2rem 1.25rem 4rem;max-width:70rem;background:var(--page);
color:var(--ink);font:15px/1.45 system-ui,sans-serif;font-variant-numeric:tabular-nums}
h1{margin:0;font-size:1.5rem;overflow-wrap:anywhere}
.about{margin:.25rem 0 0;color:var(--soft)}
.sum{margin:1.25rem 0;padding:.8rem 1.1rem;border-left:5px solid var(--good);border-radius:6px;
background:var(--card);font-size:1.05rem}
.sum.bad{border-color:var(--bad);background:var(--tint)}
.key{display:flex;flex-wrap:wrap;gap:.4rem 1.4rem;margin:0 0 .8rem;color:var(--soft);
font-size:.87rem}
.key i{display:inline-block;width:.9em;height:.9em;margin-right:.4em;border-radius:2px;
background:var(--ref);vertical-align:-.08em}
.key i.w{background:var(--win)}
.key i.d{background:var(--bad)}
.key i.t{width:3px;background:var(--ink)}
main{display:grid;grid-template-columns:repeat(auto-fill,minmax(20rem,1fr));gap:1rem}
section{display:flex;flex-direction:column;padding:1rem 1.1rem;border:1px solid var(--line);
border-radius:8px;background:var(--card);min-width:0}
section.bad{border-color:var(--bad);--win:var(--bad)}
h2{margin:0;font-size:1.02rem;overflow-wrap:anywhere}
h2 small{margin-left:.3em;color:var(--soft);font-weight:400;font-size:.83rem}
.why{min-height:1.75rem;margin:.15rem 0 .5rem;color:var(--good);font-size:.87rem}
.why b{display:inline-block;margin-right:.35rem;padding:0 .55em;border-radius:1em;
background:var(--tint);color:var(--bad);font-weight:600}
.plot{flex:1}
svg{display:block;width:100%;height:6.5rem}
.r{fill:var(--ref)}
.w{fill:none;stroke:var(--win);stroke-width:2;vector-effect:non-scaling-stroke}
.axis{display:flex;justify-content:space-between;border-top:1px solid var(--line);
color:var(--soft);font-size:.8rem}
.cat{display:grid;grid-template-columns:minmax(0,6rem) 1fr 7.3rem;gap:.5rem;
align-items:center;margin:.28rem 0;font-size:.84rem}
.cat bdi{overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.cat u{display:block;height:.42rem;min-width:1px;border-radius:1px;background:var(--ref)}
.cat u+u{margin-top:1px;background:var(--win)}
.cat span{color:var(--soft);text-align:right;white-space:nowrap}
.new{margin:.4rem 0 0;color:var(--soft);font-size:.84rem;overflow-wrap:anywhere}
.meter{position:relative;height:.5rem;margin:.9rem 0 .3rem;border-radius:3px;
background:var(--line)}
.meter u{display:block;height:100%;border-radius:3px;background:var(--win)}
.meter i{position:absolute;top:-.2rem;bottom:-.2rem;width:3px;background:var(--ink)}
dl{display:grid;grid-template-columns:1fr auto;gap:.1rem 1rem;margin:0;font-size:.87rem}
dt{color:var(--soft)}
dd{margin:0;text-align:right}
dd.bad{color:var(--bad);font-weight:600}
"""


@dataclass(frozen=True, slots=True)
class _Panel:
    """One feature with all that its card shows: values are present ones, as `read` gives them."""

    feature: Feature
    verdict: FeatureVerdict
    ours: NDArray[np.float64]
    theirs: NDArray[np.float64]
    newcomers: tuple[tuple[str, float], ...]


def render(
    verdict: Verdict,
    reference: Reference,
    window: Window,
    *,
    model: str,
    version: str,
    when: datetime,
) -> str:
    """Return one self-contained HTML page, about 3 kB a feature, drifted features first.

    `window` holds the rows that `check` judged, in any form that `check` takes. The page has no
    scripts and loads nothing; every name and value is escaped, as clients choose categories.
    """
    import numpy as np

    columns, _ = split(reference.features, window)
    parts = zip(reference.profile, verdict.features, columns, strict=True)
    panels = [_panel(reference, feature, judged, column) for feature, judged, column in parts]
    panels.sort(key=lambda panel: (not panel.verdict.detected, -_excess(panel.verdict)))
    title = f"Drift of {model} {version}".strip()
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    with np.errstate(all="ignore"):  # floats at the end of their range
        cards = "".join(_card(panel) for panel in panels)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>"
        f"<h1>{escape(title)}</h1>{_about(verdict, reference, when)}{_summary(verdict)}{_KEY}"
        f"<main>{cards}</main></body></html>\n"
    )


_KEY = (
    '<p class="key"><span><i></i>reference</span><span><i class="w"></i>window</span>'
    '<span><i class="d"></i>window, drifted</span>'
    '<span><i class="t"></i>limit of the score</span></p>'
)


def _panel(
    reference: Reference, feature: Feature, verdict: FeatureVerdict, column: Sequence[object]
) -> _Panel:
    ours, theirs = read(feature, reference.comparable(feature)), read(feature, column)
    newcomers = _newcomers(feature, column, theirs) if feature.kind == "categorical" else ()
    return _Panel(feature, verdict, _present(ours), _present(theirs), newcomers)


def _newcomers(
    feature: Feature, column: Sequence[object], values: NDArray[np.float64]
) -> tuple[tuple[str, float], ...]:
    """Return the most frequent unseen categories, with their shares of the values."""
    unseen = novel(feature, values).tolist()
    pairs = zip(column, unseen, strict=True)
    counts = Counter(to_category(value) or "" for value, is_unseen in pairs if is_unseen)
    total = max(len(_present(values)), 1)
    return tuple((name, rows / total) for name, rows in counts.most_common(NEWCOMERS))


def _present(values: NDArray[np.float64]) -> NDArray[np.float64]:
    import numpy as np

    return values[~np.isnan(values)]


def _excess(verdict: FeatureVerdict) -> float:
    return verdict.score / verdict.threshold


def _about(verdict: Verdict, reference: Reference, when: datetime) -> str:
    moment = escape(when.isoformat(sep=" ", timespec="seconds"))
    built = escape(reference.created.replace("T", " "))
    rows = f"{verdict.rows:,} rows against a reference of {reference.rows:,} rows from {built}"
    return f'<p class="about">{moment}: {rows}</p>'


def _summary(verdict: Verdict) -> str:
    total, drifted = len(verdict.features), len(verdict.drifted)
    if not drifted:
        return f'<p class="sum">No drift in {_counted(total, "feature")}.</p>'
    return f'<p class="sum bad"><b>{drifted} of {_counted(total, "feature")} drifted.</b></p>'


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _card(panel: _Panel) -> str:
    verdict = panel.verdict
    tone = ' class="bad"' if verdict.detected else ""
    reasons = "".join(f"<b>{escape(reason)}</b>" for reason in verdict.reasons)
    is_continuous = panel.feature.kind == "numeric" and not panel.feature.levels
    plot = _histogram(panel) if is_continuous else _bars(panel)
    return (
        f"<section{tone}><h2><bdi>{_name(verdict.name)}</bdi><small>{verdict.kind}</small></h2>"
        f'<p class="why">{reasons or "alike"}</p><div class="plot">{plot}</div>'
        f"{_meter(verdict)}{_shares(panel)}</section>"
    )


def _name(text: str) -> str:
    return escape(text if len(text) <= NAME_LENGTH else text[: NAME_LENGTH - 1] + "…")


def _histogram(panel: _Panel) -> str:
    import numpy as np

    low, high = _ends(panel)
    if not low < high < low + np.finfo(np.float64).max:
        return '<p class="new">Too wide or too narrow to draw.</p>'
    edges = _edges(panel, low, high)
    counts = [
        np.histogram(values.clip(edges[0], edges[-1]), edges)[0]
        for values in (panel.ours, panel.theirs)
    ]
    shares = [count / max(count.sum(), 1) for count in counts]
    top = max(float(share.max()) for share in shares)
    ours, theirs = (_steps((share / top).tolist()) for share in shares)
    return (
        f'<svg viewBox="0 -2 {10 * len(shares[0])} 102" preserveAspectRatio="none" role="img" '
        f'aria-label="histogram"><path class="r" d="M0 100{ours}V100z"/>'
        f'<path class="w" d="M0 100{theirs}V100"/></svg>'
        f'<div class="axis"><span>{low:.4g}</span><span>{high:.4g}</span></div>'
    )


def _ends(panel: _Panel) -> tuple[float, float]:
    """Return what to draw: the middle 99 % of both samples, but at most thrice the reference's.

    What lies beyond is drawn in the outer bins.
    """
    import numpy as np

    ours, theirs = _finite(panel.ours), _finite(panel.theirs)
    if not len(ours):
        return panel.feature.low, panel.feature.high
    low, high = np.quantile(ours, [0.005, 0.995])
    span = high / 2 - low / 2
    if len(theirs):
        other_low, other_high = np.quantile(theirs, [0.005, 0.995])
        low = max(min(low, other_low), low - 2 * span)
        high = min(max(high, other_high), high + 2 * span)
    return float(low), float(high)


def _edges(panel: _Panel, low: float, high: float) -> NDArray[np.float64]:
    """Cut the range into bins; for whole numbers each holds equally many of them."""
    import numpy as np

    ours = _finite(panel.ours)
    is_whole = bool((ours == np.floor(ours)).all()) and high - low < 1e9
    if not is_whole:
        return np.linspace(low, high, BINS + 1)
    width = np.ceil((high - low + 1) / BINS)
    return np.arange(np.floor(low) - 0.5, np.ceil(high) + width, width)


def _finite(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values[abs(values) < float("inf")]


def _steps(heights: Sequence[float]) -> str:
    return "".join(f"V{100 - 100 * height:.0f}h10" for height in heights)


def _bars(panel: _Panel) -> str:
    labels = _labels(panel.feature)
    ours, theirs = (_rank_shares(panel, values) for values in (panel.ours, panel.theirs))
    largest = sorted(range(len(labels)), key=lambda rank: -max(ours[rank], theirs[rank]))
    shown = sorted(largest[:BARS])
    rows = [(labels[rank], ours[rank], theirs[rank]) for rank in shown]
    rest = largest[BARS:]
    if rest:
        more = f"{len(rest)} more"
        rows.append((more, sum(ours[rank] for rank in rest), sum(theirs[rank] for rank in rest)))
    if ours[-1] or theirs[-1]:
        rows.append(("(other)", ours[-1], theirs[-1]))
    top = max(max(share) for _, *share in rows)
    return "".join(_bar(*row, top) for row in rows) + _unseen(panel)


def _labels(feature: Feature) -> list[str]:
    if feature.kind == "categorical":
        return [category for category, _ in feature.categories]
    return [f"{level:.6g}" for level in feature.levels]


def _rank_shares(panel: _Panel, values: NDArray[np.float64]) -> list[float]:
    """Return each category's share of the values, and last that of all others."""
    import numpy as np

    found = ranks(panel.feature, values)
    size = len(_labels(panel.feature)) + 1
    shares: list[float] = (np.bincount(found, minlength=size) / max(len(values), 1)).tolist()
    return shares


def _bar(label: str, ours: float, theirs: float, top: float) -> str:
    widths = "".join(f'<u style="width:{100 * share / top:.0f}%"></u>' for share in (ours, theirs))
    return (
        f'<div class="cat"><bdi title="{_name(label)}">{_name(label)}</bdi><div>{widths}</div>'
        f"<span>{_percent(ours)} → {_percent(theirs)}</span></div>"
    )


def _unseen(panel: _Panel) -> str:
    if not panel.newcomers:
        return ""
    names = (f"<bdi>{_name(name)}</bdi> {_percent(share)}" for name, share in panel.newcomers)
    return f'<p class="new">Unseen in training: {", ".join(names)}</p>'


def _meter(verdict: FeatureVerdict) -> str:
    full = 1.15 * max(verdict.score, 1.6 * verdict.threshold)
    score, threshold = 100 * verdict.score / full, 100 * verdict.threshold / full
    return (
        f'<div class="meter"><u style="width:{score:.1f}%"></u>'
        f'<i style="left:{threshold:.1f}%"></i></div>'
    )


def _shares(panel: _Panel) -> str:
    feature, verdict = panel.feature, panel.verdict
    numeric = feature.kind == "numeric"
    kind = "out of range" if numeric else "unseen categories"
    ratio = verdict.out_of_range_ratio if numeric else verdict.unseen_category_ratio
    before = feature.novel / max(feature.counted, 1)
    sign = "&ge;" if "distribution" in verdict.reasons else "&lt;"
    scores = f"{verdict.score:.3f} {sign} {verdict.threshold:.3f}"
    rows = [
        ("distribution", f"score ({verdict.method})", scores),
        ("missing", "missing", _change(feature.missing_ratio, verdict.missing_ratio)),
        (kind, kind, _change(before, ratio)),
    ]
    return f"<dl>{''.join(_entry(verdict, *row) for row in rows)}</dl>"


def _entry(verdict: FeatureVerdict, reason: str, term: str, text: str) -> str:
    tone = ' class="bad"' if reason in verdict.reasons else ""
    return f"<dt>{term}</dt><dd{tone}>{text}</dd>"


def _change(before: float, now: float) -> str:
    return f"{_percent(before)} → {_percent(now)}"


def _percent(share: float) -> str:
    """Write a share so that a small one never looks like none."""
    if 0 < share < 0.001:
        return "&lt;0.1 %"
    return f"{100 * share:.1f} %".replace(".0 %", " %")
