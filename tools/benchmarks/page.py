"""Pages: a suite as one file of HTML: no scripts, nothing fetched, for the day and the night."""
import html
import math
from pathlib import Path

from measure import COPSE
from report import in_order, number, verdict

STYLE = """
:root { color-scheme: light dark; --page: #fbfaf7; --card: #fff; --ink: #1c2127; --faint: #5a6370;
  --line: #d9d9d4; --copse: #0063a6; --limit: #767f8a; --other: #b3560a; --good: #00694a;
  --bad: #a8321c; }
@media (prefers-color-scheme: dark) { :root { --page: #14171b; --card: #1d2127; --ink: #e8e9ea;
  --faint: #a5adb8; --line: #3a414b; --copse: #62b5f0; --limit: #98a1ad; --other: #f0a35e;
  --good: #4fc79d; --bad: #ff8f78; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .25rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .75rem; }
h3 { font-size: 1rem; margin: 0; }
.faint, figcaption { color: var(--faint); font-size: .875rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(30rem, 100%), 1fr));
  gap: 1rem; }
figure, .box { margin: 0; padding: 1rem 1.1rem; background: var(--card); min-width: 0;
  border: 1px solid var(--line); border-radius: .6rem; }
.wide { margin-bottom: 1rem; overflow-x: auto; } .wide svg { min-width: 42rem; }
svg { display: block; width: 100%; height: auto; margin-top: .5rem; }
svg text { fill: var(--ink); font: 13px system-ui, sans-serif; }
svg .faint { fill: var(--faint); font-size: 12px; }
.copse { fill: var(--copse); } .limit { fill: var(--limit); } .other { fill: var(--other); }
.line { fill: none; stroke-width: 2.5; }
.line.copse { stroke: var(--copse); } .line.limit { stroke: var(--limit); }
.line.other { stroke: var(--other); }
.grid { stroke: var(--line); } .spread { stroke: var(--ink); stroke-width: 1.5; }
.bound { stroke: var(--ink); stroke-dasharray: 5 4; stroke-width: 1.5; }
.met, .missed { font-weight: 600; } .met { color: var(--good); } .missed { color: var(--bad); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .875rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; } tr.head th { padding-top: 1rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem; margin: 1rem 0 0;
  font-size: .875rem; } dt { color: var(--faint); } dd { margin: 0; overflow-wrap: anywhere; }
"""

DASHES = ("", "7 4", "2 4", "10 3 2 3")


def text_of(value):
    return html.escape(str(value), quote=True)


def kind(measure, subject):
    if subject == COPSE:
        return "copse"
    return "limit" if subject in measure.limits or subject.startswith(("limit", "raw")) else "other"


def put_text(x, y, text, anchor="start", style=""):
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
            f'{f" class={chr(34)}{style}{chr(34)}" if style else ""}>{text_of(text)}</text>')


def put_line(x1, y1, x2, y2, style):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{style}"/>'


# A measure: a bar for each subject, as long as its median, and the middle half of its samples -----

class Scale:
    """From a figure to a place; logarithmic where the smallest would not be seen otherwise."""

    def __init__(self, figures, left, right):
        self.left, self.right = left, right
        positive = [each for each in figures if each > 0]
        self.high = max(positive, default=1) * 1.02
        self.logarithmic = bool(positive) and self.high / min(positive) > 60
        self.low = min(positive) / 2 if self.logarithmic else 0

    def __call__(self, figure):
        if self.logarithmic:
            share = math.log(max(figure, self.low) / self.low) / math.log(self.high / self.low)
        else:
            share = max(figure, 0) / self.high
        return self.left + share * (self.right - self.left)


def bars(measure):
    rows = [(subject, samples) for subject, samples in in_order(measure) if samples]
    bound = measure.bar.bound if measure.bar and not measure.bar.times else None
    figures = [figure for _, each in rows for figure in (each.median, each.quartiles[1])]
    place = Scale(figures + ([bound] if bound else []), 190, 440)
    height = 30 * len(rows) + (22 if bound else 4)
    parts = [f'<svg viewBox="0 0 520 {height}" role="img" aria-label="{text_of(measure.title)}">']
    for index, (subject, samples) in enumerate(rows):
        y = 30 * index + 4
        low, high = samples.quartiles
        parts += [
            put_text(180, y + 16, subject, "end"),
            f'<rect x="190" y="{y}" width="{max(place(samples.median) - 190, 1):.1f}" height="22" '
            f'rx="3" class="{kind(measure, subject)}"><title>{text_of(subject)}: '
            f'{number(samples.median)} {text_of(measure.unit)}</title></rect>',
            put_line(place(low), y + 11, place(high), y + 11, "spread"),
            put_line(place(samples.min), y + 6, place(samples.min), y + 16, "spread"),
            put_text(max(place(samples.median), place(high)) + 6, y + 16,
                     f"{number(samples.median)} {measure.unit}"),
        ]
    if bound:
        x = place(bound)
        parts += [put_line(x, 0, x, height - 18, "bound"),
                  put_text(x, height - 4, f"bar {bound:,g}", "middle", "faint")]
    return "".join(parts) + "</svg>", place.logarithmic


def verdict_html(measure):
    if not measure.bar:
        return ""
    met = measure.bar.met(measure)
    style = {True: "met", False: "missed", None: "faint"}[met]
    return (f'<div><span class="faint">bar {text_of(measure.bar)}:</span> '
            f'<span class="{style}">{text_of(verdict(measure))}</span></div>')


def card(measure):
    drawing, logarithmic = bars(measure)
    unit = f" <span class='faint'>{text_of(measure.unit)}</span>" if measure.unit else ""
    better = "more is better" if measure.higher_is_better else "less is better"
    words = [better] + ["logarithmic"] * logarithmic + [measure.note] * bool(measure.note)
    missing = [subject for subject, samples in measure.subjects.items() if not samples]
    if missing:
        words.append(f"NO NUMBER for {', '.join(missing)}")
    return (f"<figure><h3>{text_of(measure.title)}{unit}</h3>{verdict_html(measure)}{drawing}"
            f"<figcaption>{text_of('; '.join(words))}</figcaption></figure>")


# A chart: a line for each subject, over a logarithmic number --------------------------------------

def chart_series(suite, chart):
    """The points of each line, by its name and the kind of its subject."""
    series = {}
    for words, keys in chart.lines.items():
        for at, key in sorted(keys.items()):
            measure = suite.measures[key]
            for subject, samples in measure.subjects.items():
                name = f"{subject}, {words}" if words else subject
                if samples:
                    series.setdefault((name, kind(measure, subject)), []).append(
                        (at, max(samples.median, 0)))
    return series


def marker(x, y, style, index):
    """A shape besides the colour, for who does not see the colours."""
    if index % 3 == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" class="{style}"/>'
    if index % 3 == 1:
        return f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" class="{style}"/>'
    return (f'<path d="M{x:.1f} {y - 5:.1f} l5 9 h-10 z" class="{style}"/>')


def nice_steps(high):
    step = 10 ** math.floor(math.log10(high / 4)) if high > 0 else 1
    step *= next(each for each in (1, 2, 2.5, 5, 10) if each * step * 5 >= high)
    return [step * each for each in range(int(high / step) + 1)]


def upright(figures):
    """Where the grid lies, and from a figure to its height: logarithmic where the least ones
    would all lie on the ground."""
    high = max(figures) * 1.05 or 1
    low = min((each for each in figures if each > 0), default=high)
    if high / low < 300:
        return nice_steps(high), lambda figure: BOTTOM - figure / high * (BOTTOM - TOP)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))

    def height(figure):
        share = (math.log10(max(figure, 10 ** first)) - first) / (last - first)
        return BOTTOM - share * (BOTTOM - TOP)

    return [10 ** power for power in range(first, last + 1)], height


def spread_labels(ends):
    """Moves labels at the lines' ends apart; from the lowest place on the page to the highest."""
    places, free = {}, math.inf
    for y, name in sorted(ends, reverse=True):
        places[name] = min(y, free)
        free = places[name] - 16
    return places


LEFT, RIGHT, TOP, BOTTOM = 60, 720, 20, 300


def across(numbers):
    first, last = math.log(numbers[0]), math.log(numbers[-1])
    return lambda at: LEFT + (math.log(at) - first) / (last - first) * (RIGHT - LEFT)


def draw_grid(steps, numbers, x, y):
    for step in steps:
        yield put_line(LEFT, y(step), RIGHT, y(step), "grid")
        yield put_text(LEFT - 8, y(step) + 4, f"{step:,g}", "end", "faint")
    for at in numbers:
        yield put_text(x(at), 320, f"{at:,}", "middle", "faint")


def draw_series(name, style, places, figures, index):
    """A line, and a marker at each of its points, which says its figure when pointed at."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    yield (f'<polyline points="{path}" class="line {style}" '
           f'stroke-dasharray="{DASHES[index % len(DASHES)]}"/>')
    for (x, y), figure in zip(places, figures):
        yield (f"<g><title>{text_of(name)}: {number(figure)}</title>"
               f"{marker(x, y, style, index)}</g>")
        if style == "copse":
            yield put_text(x, y - 9, number(figure), "middle")


def line_chart(suite, chart):
    series = chart_series(suite, chart)
    numbers = sorted({at for points in series.values() for at, _ in points})
    if len(numbers) < 2:
        return ""
    unit = suite.measures[next(iter(next(iter(chart.lines.values())).values()))].unit
    steps, y = upright([figure for points in series.values() for _, figure in points])
    x = across(numbers)
    parts = [f'<svg viewBox="0 0 960 345" role="img" aria-label="{text_of(chart.title)}">',
             put_text(LEFT - 8, 12, unit, "end", "faint"),
             put_text((LEFT + RIGHT) / 2, 340, f"{chart.across} (logarithmic)", "middle", "faint"),
             *draw_grid(steps, numbers, x, y)]
    labels = spread_labels([(y(points[-1][1]) + 4, name) for (name, _), points in series.items()])
    for index, ((name, style), points) in enumerate(series.items()):
        figures = [figure for _, figure in points]
        places = [(x(at), y(figure)) for at, figure in points]
        parts += [*draw_series(name, style, places, figures, index),
                  marker(RIGHT + 18, labels[name] - 4, style, index),
                  put_text(RIGHT + 28, labels[name], f"{name}, {number(figures[-1])} {unit}")]
    return (f'<figure class="wide"><h3>{text_of(chart.title)}</h3>{"".join(parts)}</svg>'
            f"<figcaption>medians, in {text_of(unit)}; less is better</figcaption></figure>")


# The rest of the page -----------------------------------------------------------------------------

def table_rows(measure):
    unit = f", {text_of(measure.unit)}" if measure.unit else ""
    yield f'<tr class="head"><th colspan="6">{text_of(measure.title)}{unit}</th></tr>'
    for subject, samples in in_order(measure):
        if not samples:
            yield f'<tr><td>{text_of(subject)}</td><td colspan="5">NO NUMBER</td></tr>'
            continue
        low, high = samples.quartiles
        ratio = measure.ratio(subject)
        cells = [number(samples.min), number(samples.median), f"{number(low)} .. {number(high)}",
                 f"{ratio:.2f} x" if ratio else "", str(len(samples.figures))]
        yield (f"<tr><td>{text_of(subject)}</td>"
               + "".join(f"<td>{each}</td>" for each in cells) + "</tr>")


def table(suite):
    rows = "".join(row for measure in suite.measures.values() for row in table_rows(measure))
    return ('<div class="box scroll"><table><thead><tr><th>subject</th><th>min</th><th>median</th>'
            "<th>middle half</th><th>of the limit</th><th>samples</th></tr></thead>"
            f"<tbody>{rows}</tbody></table></div>")


def notes(suite):
    failed = [f'<li class="missed">FAILED: {text_of(each)}</li>' for each in suite.failures]
    rows = failed + [f"<li>{text_of(each)}</li>" for each in suite.notes]
    return f"<ul>{''.join(rows)}</ul>"


def headline(suite):
    verdicts = [each.bar.met(each) for each in suite.measures.values() if each.bar]
    words = f"{verdicts.count(True)} of {len(verdicts)} bars met" if verdicts else ""
    if suite.failures:
        words += f"{'; ' if words else ''}{len(suite.failures)} FAILURES, see the notes"
    return words


def write_page(file, suite, where):
    facts = "".join(f"<dt>{text_of(key)}</dt><dd>{text_of(value)}</dd>"
                    for key, value in where.items())
    charts = "".join(line_chart(suite, each) for each in suite.charts)
    cards = "".join(card(each) for each in suite.measures.values())
    title = f"copse: {suite.title[0].lower()}{suite.title[1:]}"
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Path(file).write_text(
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{text_of(title)}</title>"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head><body><main><h1>{text_of(title)}</h1>"
        f"<p>{text_of(headline(suite))}</p><div class='box'><strong>Measured</strong>"
        f"<dl>{facts}</dl></div>"
        + (f"<h2>From few to many</h2>{charts}" if charts else "")
        + "<h2>One by one</h2><p class='faint'>A bar is as long as the median; the line in it is "
        "the middle half of the samples, its tick the least of them.</p>"
        f"<div class='cards'>{cards}</div><h2>Notes</h2>{notes(suite)}"
        f"<h2>Every figure</h2>{table(suite)}</main></body></html>\n", encoding="utf-8")
