"""A report as one HTML page without scripts, which loads nothing else.

Names come from untrusted files: every text goes through `_text`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import accumulate
from math import ceil, floor, log10

from eventdata.errors import printable
from train.results import RunResult
from train.tables import Table

MOST_CLASSES = 40
"""Classes of a confusion matrix that is shown whole."""
MOST_PAIRS = 20
WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 12, 48  # margins of a chart

STYLE = """
:root { color-scheme: light dark; --text: #1c2024; --soft: #5d666f; --line: #d7dce1; --back: #fff;
  --panel: #f5f7f9; --accent: #0072b2; --warn: #fff3d6; --c0: #000; --c1: #0072b2; --c2: #d55e00;
  --c3: #009e73; --c4: #cc79a7; --c5: #b87e00; --c6: #2f93cc; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e9ec; --soft: #9aa4ae; --line: #3a424b;
  --back: #15191d; --panel: #1e242a; --accent: #4aa8e0; --warn: #4a3b12; --c0: #fff; --c1: #4aa8e0;
  --c2: #f08c4a; --c3: #36c9a0; --c4: #e3a1c6; --c5: #f0c24a; --c6: #8fd0f5; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back);
  max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .6rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .4rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: right; }
th { font-weight: 600; vertical-align: bottom; color: var(--soft); }
th:first-child, td:first-child, .left { text-align: left; }
td:first-child { min-width: 9rem; overflow-wrap: anywhere; }
.note { background: var(--warn); padding: .5rem .8rem; border-radius: .3rem; margin: .5rem 0; }
.soft { color: var(--soft); }
.charts { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 28rem), 1fr)); }
figure { margin: 0; background: var(--panel); border-radius: .4rem;
  padding: .6rem; }
figcaption { color: var(--soft); font-size: .9rem; }
svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--soft); font: 15px system-ui, sans-serif; }
svg .grid { stroke: var(--line); } svg .target { stroke: var(--soft); stroke-dasharray: 2 4; }
svg path { fill: none; stroke-width: 2; stroke-linejoin: round; }
.key { list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; padding: 0; }
.key i { display: inline-block; width: .8rem; height: .8rem; border-radius: .2rem;
  margin-right: .4rem; vertical-align: -.08rem; }
details { border: 1px solid var(--line); border-radius: .4rem; padding: .5rem .9rem;
  margin: .6rem 0; }
summary { cursor: pointer; font-weight: 600; overflow-wrap: anywhere; }
.matrix td { min-width: 1.7rem; text-align: center; padding: .2rem .3rem; border: 0;
  background: color-mix(in srgb, var(--accent) calc(var(--share) * 100%), transparent); }
.matrix td.strong { color: var(--back); }
.matrix th { border: 0; padding: .2rem .5rem; font-weight: 400; max-width: 12rem; overflow: hidden;
  text-overflow: ellipsis; white-space: nowrap; text-align: right; }
.matrix thead th { writing-mode: vertical-rl; transform: rotate(180deg); text-align: left;
  max-width: none; max-height: 10rem; padding: .3rem .2rem; }
.bars td { border: 0; padding: .1rem .5rem; min-width: 0; }
.bar { background: var(--accent); height: .8rem; border-radius: .2rem; min-width: 1px; }
.track { width: 18rem; max-width: 45vw; background: var(--panel); border-radius: .2rem; }
"""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Best accuracy so far over a cost, a line per run."""

    title: str
    places: Sequence[Sequence[float]]
    """For each run the cost at each point of its curve; empty if it is unknown."""


def page(
    runs: Sequence[RunResult],
    *,
    tables: Sequence[Table],
    charts: Sequence[Chart],
    notes: Sequence[str],
    target: float | None,
) -> str:
    """Return the page.

    Args:
        runs: the runs, whose confusion matrices and firing rates are shown.
        tables, charts: in the order in which they are shown.
        notes: sentences that the reader has to know.
        target: accuracy to mark in the charts.
    """
    labels = list(dict.fromkeys(run.label for run in runs))
    offset = 0 if any(run.scratch for run in runs) else 1
    labels.sort(key=lambda label: not any(run.scratch for run in runs if run.label == label))
    colours = {label: f"var(--c{(n + offset) % 7})" for n, label in enumerate(labels)}
    body = [
        "<h1>Accuracy against the cost of training</h1>",
        *(f'<p class="note">{_text(note)}</p>' for note in notes),
        _table(tables[0]),
        "<h2>Curves</h2>",
        '<ul class="key">',
        *(
            f'<li><i style="background:{colour}"></i>{_text(label)}</li>'
            for label, colour in colours.items()
        ),
        "</ul>",
        '<div class="charts">',
        *(_chart(chart, runs, colours, target) for chart in charts),
        "</div>",
        *map(_table, tables[1:]),
        "<h2>Runs</h2>",
        *(_run(run, is_open=run is runs[0]) for run in runs),
    ]
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta http-equiv="Content-Security-Policy" '
            "content=\"default-src 'none'; style-src 'unsafe-inline'\">",
            f"<title>Training report</title><style>{STYLE}</style></head><body>",
            *body,
            "</body></html>\n",
        ]
    )


def _text(text: str) -> str:
    return escape(printable(text))


def _table(table: Table) -> str:
    head = _row("th", table.head, table.words)
    rows = "".join(_row("td", row, table.words) for row in table.rows)
    text = f'<p class="soft">{_text(table.text)}</p>' if table.text else ""
    return (
        f'<h2>{_text(table.title)}</h2>{text}\n<div class="wide"><table><thead>{head}'
        f"</thead><tbody>\n{rows}</tbody></table></div>"
    )


def _row(tag: str, cells: Sequence[str], words: int) -> str:
    shown = (
        f"<{tag}{' class=left' if place < words else ''}>{_text(cell)}</{tag}>"
        for place, cell in enumerate(cells)
    )
    return f"<tr>{''.join(shown)}</tr>\n"


def _ticks(low: float, high: float) -> list[float]:
    """Return about five round numbers from low to high."""
    raw = (high - low) / 5
    power = 10.0 ** floor(log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    return [step * n for n in range(ceil(low / step - 1e-9), floor(high / step + 1e-9) + 1)]


def _chart(
    chart: Chart, runs: Sequence[RunResult], colours: dict[str, str], target: float | None
) -> str:
    shown = [(run, xs) for run, xs in zip(runs, chart.places, strict=True) if xs]
    if not shown:
        return ""
    right = max(max(xs) for _, xs in shown) or 1.0
    heights = [100 * accuracy for run, _ in shown for _, accuracy in run.curve]
    heights += [] if target is None else [100 * target]
    low, high = max(0.0, min(heights) - 3), min(100.0, max(heights) + 3)

    def across(value: float) -> float:
        return LEFT + value / right * (WIDTH - LEFT - RIGHT)

    def up(percent: float) -> float:
        return HEIGHT - BOTTOM - (percent - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img"><title>{_text(chart.title)}</title>']
    for tick in _ticks(low, high):
        y = up(tick)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{LEFT - 6}" y="{y + 5:.1f}" text-anchor="end">{tick:g}</text>'
        )
    base = HEIGHT - BOTTOM
    for tick in _ticks(0, right):
        parts.append(
            f'<text x="{across(tick):.1f}" y="{base + 20}" text-anchor="middle">{tick:g}</text>'
        )
    if target is not None:
        y = up(100 * target)
        parts.append(
            f'<line class="target" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
    for run, xs in shown:
        best = accumulate((accuracy for _, accuracy in run.curve), max)
        points = [(across(x), up(100 * accuracy)) for x, accuracy in zip(xs, best, strict=True)]
        path = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
        path += "".join(f"H{x:.1f}V{y:.1f}" for x, y in points[1:])
        dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>' for x, y in points)
        colour = colours[run.label]
        parts.append(
            f'<g style="stroke:{colour};fill:{colour}"><path d="{path}"/>{dots}'
            f"<title>{_text(run.label)}, seed {run.seed}</title></g>"
        )
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">'
        f"{_text(chart.title)}</text></svg>"
    )
    caption = "Best held-out accuracy so far (%)"
    caption += "; dotted: the baseline's best." if target is not None else "."
    return f"<figure>{''.join(parts)}<figcaption>{caption}</figcaption></figure>"


def _run(run: RunResult, *, is_open: bool) -> str:
    test = "no test" if run.test is None else f"test accuracy {run.test.top1:.1%}"
    parts = [
        f"<details{' open' if is_open else ''}><summary>{_text(run.label)}, seed {run.seed}: "
        f"{test}</summary>",
        f'<p class="soft">{_text(run.folder)}</p>',
        *(f"<p>Note: {_text(note)}</p>" for note in run.notes),
    ]
    if run.test is not None and run.test.confusion:
        parts.append(_confusion(run.test.confusion, run.classes))
    if run.rates:
        parts.append(_rates(run))
    return "\n".join([*parts, "</details>"])


def _confusion(rows: Sequence[Sequence[int]], classes: Sequence[str]) -> str:
    names = list(classes) if len(classes) == len(rows) else [str(n) for n in range(len(rows))]
    if len(rows) > MOST_CLASSES:
        pairs = sorted(
            (
                (count, names[true], names[taken])
                for true, row in enumerate(rows)
                for taken, count in enumerate(row)
                if count and true != taken
            ),
            key=lambda pair: -pair[0],
        )
        lines = [[true, taken, str(count)] for count, true, taken in pairs[:MOST_PAIRS]]
        title = "Most frequent confusions on the test set"
        return _table(
            Table(title=title, head=["true", "predicted", "samples"], rows=lines, words=2)
        )
    head = "".join(f'<th title="{_text(name)}">{_text(name)}</th>' for name in names)
    body = []
    for name, row in zip(names, rows, strict=True):
        cells = []
        for count in row:
            share = count / max(sum(row), 1)
            strong = ' class="strong"' if share > 0.6 else ""
            cells.append(f'<td{strong} style="--share:{share:.3f}">{count or ""}</td>')
        body.append(f'<tr><th title="{_text(name)}">{_text(name)}</th>{"".join(cells)}</tr>')
    return (
        "<h3>Confusion matrix of the test</h3>"
        '<p class="soft">Rows are true classes, columns predicted ones.</p>'
        f'<div class="wide"><table class="matrix"><thead><tr><th></th>{head}</tr></thead><tbody>\n'
        + "\n".join(body)
        + "</tbody></table></div>"
    )


def _rates(run: RunResult) -> str:
    rows = "\n".join(
        f'<tr><td>{_text(name)}</td><td>{rate:.3f}</td><td class="left"><div class="track">'
        f'<div class="bar" style="width:{100 * rate:.1f}%"></div></div></td></tr>'
        for name, rate in run.rates.items()
    )
    return (
        "<h3>Firing rates by layer</h3>"
        '<p class="soft">Share of nonzero outputs on held-out samples.</p>'
        f'<div class="wide"><table class="bars">{rows}</table></div>'
    )
