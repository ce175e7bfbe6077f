"""A dashboard as a picture: drawn from its JSON and from what a Prometheus answered, close to Grafana's dark theme."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import FancyBboxPatch, Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from bench.grafana_values import (
    PALETTE,
    colour_of,
    fixed_colour,
    formatted,
    legend,
    mapped,
    merged_rows,
    threshold_colour,
)
from tests.prometheus import Series

Json = dict[str, Any]

COLUMN, LINE, GAP, EDGE, HEAD = 60, 33, 6, 8, 58  # pixels
BACKGROUND, PANEL, BORDER, TEXT, MUTED, GRID = "#111217", "#181b1f", "#2a2d33", "#d8d9da", "#8f929b", "#2c3037"
DPI = 100
POINT = 72 / DPI  # a font's size is said in points


@dataclass(frozen=True, slots=True)
class Mark:
    """An annotation."""

    at: float
    name: str
    colour: str


@dataclass(frozen=True, slots=True)
class Box:
    """Pixels from the upper left corner."""

    x: float
    y: float
    width: float
    height: float

    def inner(self, left: float, top: float, right: float, bottom: float) -> "Box":
        return Box(self.x + left, self.y + top, self.width - left - right, self.height - top - bottom)


class Page:
    """The whole dashboard."""

    def __init__(self, dashboard: Json, start: float, end: float, marks: Sequence[Mark]) -> None:
        lines = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"])
        self.width, self.height = 24 * COLUMN + 2 * EDGE, lines * LINE + HEAD + EDGE
        self.figure = Figure(figsize=(self.width / DPI, self.height / DPI), dpi=DPI, facecolor=BACKGROUND)
        canvas: Any = FigureCanvasAgg(self.figure)
        self._renderer = canvas.get_renderer()
        self._sheet = self.figure.add_axes((0, 0, 1, 1))
        self._sheet.set_axis_off()
        self._sheet.set(xlim=(0, self.width), ylim=(self.height, 0))
        self._start, self._end, self._marks = start, end, marks

    # --- what everything is made of

    def say(self, x: float, y: float, words: str, size: float = 12, colour: str = TEXT, **more: Any) -> None:
        self._sheet.text(x, y, words.replace("$", r"\$"), size=size * POINT, color=colour, **{"va": "center", **more})

    def width_of(self, words: str, size: float, *, bold: bool = False) -> float:
        font = FontProperties(size=size * POINT, weight="bold" if bold else "normal")
        return float(self._renderer.get_text_width_height_descent(words, font, False)[0])

    def cut(self, words: str, size: float, width: float) -> str:
        """As much of the words as has room."""
        if self.width_of(words, size) <= width:
            return words
        while words and self.width_of(words + "…", size) > width:
            words = words[:-1]
        return words.rstrip() + "…"

    def fill(self, box: Box, colour: str, edge: str | None = None) -> None:
        shape = FancyBboxPatch(
            (box.x, box.y), box.width, box.height, boxstyle="round,pad=0,rounding_size=3", fc=colour, ec=edge or colour
        )
        self._sheet.add_patch(shape)

    def plot(self, box: Box) -> Axes:
        height = self.height
        axes = self.figure.add_axes(
            (box.x / self.width, 1 - (box.y + box.height) / height, box.width / self.width, box.height / height)
        )
        axes.set_facecolor(PANEL)
        axes.tick_params(colors=MUTED, labelsize=10 * POINT, length=0, pad=4)
        for side in axes.spines.values():
            side.set_visible(False)
        return axes

    # --- the dashboard

    def head(self, title: str, chosen: Sequence[tuple[str, str]], annotations: Sequence[tuple[str, str]]) -> None:
        self.say(EDGE + 4, 16, title, 16, weight="bold")
        moments = [time.strftime("%H:%M:%S", time.gmtime(at)) for at in (self._start, self._end)]
        self.say(self.width - EDGE - 4, 16, f"{moments[0]} to {moments[1]} UTC", 12, MUTED, ha="right")
        x: float = EDGE + 4
        for name, value in chosen:
            self.say(x, 42, name, 11, MUTED)
            x += self.width_of(name, 11) + 8
            self.fill(Box(x - 2, 32, self.width_of(value, 11) + 14, 20), PANEL, BORDER)
            self.say(x + 5, 42, value, 11)
            x += self.width_of(value, 11) + 28
        for name, colour in annotations:
            self.say(x, 42, f"▲ {name}", 11, colour_of(colour))
            x += self.width_of(f"▲ {name}", 11) + 18

    def draw(self, panel: Json, answers: list[list[Series]]) -> None:
        at = panel["gridPos"]
        box = Box(EDGE + at["x"] * COLUMN, HEAD + at["y"] * LINE, at["w"] * COLUMN - GAP, at["h"] * LINE - GAP)
        if panel["type"] == "row":
            self.say(box.x + 4, box.y + box.height / 2, f"▾ {panel['title']}", 13, weight="bold")
            return
        self.fill(box, PANEL, BORDER)
        self.say(box.x + 10, box.y + 14, self.cut(panel["title"], 12, box.width - 20), 12)
        inside = box.inner(10, 28, 10, 8)
        if panel["type"] == "text":
            self._text(inside, panel["options"]["content"])
        elif not any(series.points for found in answers for series in found):
            nothing = panel["fieldConfig"]["defaults"].get("noValue", "No data")
            self.say(box.x + box.width / 2, box.y + box.height / 2 + 8, nothing, 13, MUTED, ha="center")
        else:
            kinds = {
                "stat": self._stat,
                "timeseries": self._graph,
                "table": self._table,
                "state-timeline": self._timeline,
            }
            kinds[panel["type"]](inside, panel, answers)

    def _stat(self, box: Box, panel: Json, answers: list[list[Series]]) -> None:
        defaults = panel["fieldConfig"]["defaults"]
        shown = [
            (legend(series, target), series.points[-1][1], fixed_colour(panel, target["refId"]))
            for target, found in zip(panel["targets"], answers, strict=True)
            for series in found
        ]
        width = box.width / len(shown)
        for number, (name, value, colour) in enumerate(shown):
            part = Box(box.x + number * width, box.y, width - (4 if number < len(shown) - 1 else 0), box.height)
            self.fill(part, colour or threshold_colour(value, defaults["thresholds"]["steps"]))
            words = formatted(value, defaults["unit"], defaults.get("decimals"))
            size = min(34.0, 26 * (part.width - 16) / self.width_of(words, 26))
            middle = part.y + part.height / 2
            several = len(shown) > 1
            self.say(part.x + part.width / 2, middle + 7 * several, words, size, "#14161a", ha="center", weight="bold")
            if several:
                self.say(part.x + part.width / 2, part.y + 12, name, 11, "#14161a", ha="center")

    def _graph(self, box: Box, panel: Json, answers: list[list[Series]]) -> None:
        config = panel["fieldConfig"]["defaults"]
        drawn = [
            (legend(series, target), series, fixed_colour(panel, target["refId"]))
            for target, found in zip(panel["targets"], answers, strict=True)
            for series in found
        ]
        colours = [colour or PALETTE[number % len(PALETTE)] for number, (_, _, colour) in enumerate(drawn)]
        lines = self._legend(box, [name for name, _, _ in drawn], colours)
        axes = self.plot(box.inner(56, 4, 4, 22 + 17 * lines))
        stacked, bars = config["custom"]["stacking"]["mode"] == "normal", config["custom"]["drawStyle"] == "bars"
        times = sorted({at for _, series, _ in drawn for at, _ in series.points})
        step = min((later - at for at, later in pairwise(times)), default=1.0)
        opacity, line = config["custom"]["fillOpacity"] / 100, 1.3 * config["custom"]["lineWidth"]
        base = dict.fromkeys(times, 0.0)
        for colour, (_, series, _) in zip(colours, drawn, strict=True):
            points = [(at, value) for at, value in series.points if value == value]
            below = [base[at] if stacked else 0.0 for at, _ in points]
            above = [low + value for low, (_, value) in zip(below, points, strict=True)]
            where = [at for at, _ in points]
            if stacked:
                base |= dict(zip(where, above, strict=True))
            if bars:
                heights = [value for _, value in points]
                axes.bar(where, heights, step * 0.9, bottom=below, color=colour, alpha=0.85, linewidth=0)
                continue
            for first, last in _runs(where, 3 * step):
                part = slice(first, last)
                axes.fill_between(where[part], below[part], above[part], color=colour, linewidth=0, alpha=opacity)
                dot = "." if last - first == 1 else None
                axes.plot(where[part], above[part], color=colour, linewidth=line, marker=dot, markersize=4)
        self._frame(axes, config)

    def _frame(self, axes: Axes, config: Json) -> None:
        low, high = axes.get_ylim()
        low, high = config.get("min", low), config.get("max", high)
        high = high if high > low else low + 1
        if config["custom"]["thresholdsStyle"]["mode"] == "line":
            for step in config["thresholds"]["steps"][1:]:
                axes.axhline(step["value"], color=colour_of(step["color"]), linewidth=1, linestyle="--", alpha=0.8)
        axes.set(xlim=(self._start, self._end), ylim=(low, high))
        decimals = config.get("decimals")
        axes.set_yticks(_ticks(low, high, config["unit"], whole=decimals == 0))
        axes.set_ylim(low, high)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: formatted(value, config["unit"], decimals)))
        axes.grid(axis="y", color=GRID, linewidth=0.7)
        self._time_axis(axes)
        for mark in self._marks:
            axes.axvline(mark.at, color=colour_of(mark.colour), linewidth=0.8, linestyle=(0, (4, 3)), alpha=0.7)
            axes.plot(
                [mark.at], [0], marker="^", color=colour_of(mark.colour), markersize=5, clip_on=False,
                transform=axes.get_xaxis_transform(),
            )  # fmt: skip

    def _time_axis(self, axes: Axes) -> None:
        room = axes.get_position().width * self.width / 75  # so many labels stand apart
        every = next((step for step in (10, 15, 30, 60, 120, 300) if (self._end - self._start) / step <= room), 600)
        axes.set_xticks([at for at in range(int(self._start), int(self._end) + 1) if at % every == 0])
        axes.xaxis.set_major_formatter(FuncFormatter(lambda at, _: time.strftime("%H:%M:%S", time.gmtime(at))))

    def _legend(self, box: Box, names: Sequence[str], colours: Sequence[str]) -> int:
        """The names below the graph, in at most two lines; how many they take."""
        rows: list[list[tuple[float, str, str]]] = [[]]
        x = 0.0
        for name, colour in dict(zip(names, colours, strict=True)).items():
            need = self.width_of(name, 11) + 30
            if x + need > box.width and rows[-1]:
                rows.append([])
                x = 0.0
            rows[-1].append((x, name, colour))
            x += need
        shown = rows[:2]
        for number, row in enumerate(shown):
            y = box.y + box.height - 17 * (len(shown) - number) + 9
            for left, name, colour in row:
                self._sheet.add_patch(Rectangle((box.x + left, y - 2), 12, 3, color=colour))
                self.say(box.x + left + 17, y, self.cut(name, 11, box.width - left - 17), 11)
        return len(shown)

    def _timeline(self, box: Box, panel: Json, answers: list[list[Series]]) -> None:
        mappings = panel["fieldConfig"]["defaults"]["mappings"]
        found = answers[0]
        axes = self.plot(box.inner(76, 4, 4, 40))
        names: list[str] = []
        colours: list[str] = []
        for number, series in enumerate(found):
            for (at, value), (later, _) in zip(series.points, [*series.points[1:], (self._end, 0.0)], strict=True):
                name, colour = mapped(f"{value:g}", mappings) or (f"{value:g}", None)
                axes.barh(-number, min(later - at, 10), left=at, height=0.75, color=colour or MUTED, linewidth=0)
                if name not in names:
                    names.append(name)
                    colours.append(colour or MUTED)
        axes.set(xlim=(self._start, self._end), ylim=(0.6 - len(found), 0.6))
        axes.set_yticks(
            [-number for number in range(len(found))], [legend(each, panel["targets"][0]) for each in found]
        )
        self._time_axis(axes)
        self._legend(box, names, colours)

    def _table(self, box: Box, panel: Json, answers: list[list[Series]]) -> None:
        organise = panel["transformations"][1]["options"]
        fields = sorted(organise["indexByName"], key=organise["indexByName"].get)
        titles = [organise["renameByName"][field] for field in fields]
        of = {each["matcher"]["options"]: _properties(each) for each in panel["fieldConfig"]["overrides"]}
        rows = merged_rows(panel, answers)
        sort_by = fields[titles.index(panel["options"]["sortBy"][0]["displayName"])]
        rows.sort(key=lambda row: row.get(sort_by, ""), reverse=panel["options"]["sortBy"][0]["desc"])
        fixed = sum(of[title].get("custom.width", 0) for title in titles)
        free = sum("custom.width" not in of[title] for title in titles)
        widths = [of[title].get("custom.width", (box.width - fixed) / max(free, 1)) for title in titles]
        scale = box.width / sum(widths)
        x = box.x
        for field, title, width in zip(fields, titles, [each * scale for each in widths], strict=True):
            self.say(x + 4, box.y + 10, self.cut(title, 11, width - 8), 11, "#6e9fff")
            for number, row in enumerate(rows):
                y = box.y + 34 + number * 24
                if y + 12 > box.y + box.height:
                    break
                words, colour = _cell(row.get(field), of[title])
                self.say(x + 4, y, self.cut(words, 11, width - 10), 11, colour)
                self._sheet.plot([box.x, box.x + box.width], [y - 12, y - 12], color=BORDER, linewidth=0.6)
            x += width

    def _text(self, box: Box, markdown: str) -> None:
        y = box.y + 8
        for paragraph in markdown.strip().splitlines():
            x = box.x + 14
            self.say(box.x + 3, y, "•", 12)
            bold = False
            for number, run in enumerate(paragraph.removeprefix("- ").split("**")):
                bold = number % 2 == 1
                for word in run.replace("*", "").replace("`", "").split():
                    x -= 4 * (word in ":,.")
                    width = self.width_of(word, 12, bold=bold)
                    if x + width > box.x + box.width:
                        x, y = box.x + 14, y + 18
                    self.say(x, y, word, 12, weight="bold" if bold else "normal")
                    x += width + 4
            y += 23


def _runs(times: Sequence[float], gap: float) -> list[tuple[int, int]]:
    """Where a line goes on: (first, past the last) of each part without a gap."""
    ends = [number for number in range(1, len(times)) if times[number] - times[number - 1] > gap]
    return list(zip([0, *ends], [*ends, len(times)], strict=True)) if times else []


def _ticks(low: float, high: float, unit: str, *, whole: bool) -> list[float]:
    """About five round values: of bytes powers of two, of long times parts of an hour."""
    rounds = {
        "bytes": [2.0**power for power in range(50)],
        "s": [30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 21600.0, 43200.0, 86400.0],
    }
    if unit in rounds and high - low > 2 * rounds[unit][0]:
        step = next(each for each in rounds[unit] if (high - low) / each <= 5)
        return [step * number for number in range(round(low // step), round(high // step) + 1) if step * number >= low]
    return list(MaxNLocator(5, integer=whole, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high))


def _properties(override: Json) -> Json:
    return {each["id"]: each["value"] for each in override["properties"]}


def _cell(value: str | float | None, properties: Json) -> tuple[str, str]:
    if value is None:
        return "", TEXT
    as_text = value if isinstance(value, str) else f"{value:g}"
    if found := mapped(as_text, properties.get("mappings", [])):
        return found[0], found[1] or TEXT
    if isinstance(value, str):
        return value, TEXT
    words = formatted(value, properties["unit"], properties.get("decimals"))
    steps = properties.get("thresholds")
    return words, threshold_colour(value, steps["steps"]) if steps else TEXT


mpl.rcParams["font.family"] = ["DejaVu Sans"]
