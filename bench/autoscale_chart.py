"""Draw two panels over time, waiting jobs and instances, as a small handwritten SVG without a plotting library."""

from collections.abc import Sequence
from xml.sax.saxutils import escape

from bench.fleet import HOUR, Sample

WIDTH, PANEL_HEIGHT, LEFT, TOP, GAP = 860, 150, 70, 34, 34
MAX_POINTS = 480  # more points are indistinguishable at this width


def chart(title: str, samples: Sequence[Sample]) -> str:
    """Return the SVG document. Each point is the maximum of its samples, so that no peak is lost."""
    step = -(-len(samples) // MAX_POINTS)
    groups = [samples[start : start + step] for start in range(0, len(samples), step)]
    hours = [group[0].at / HOUR for group in groups]
    waiting = [max(sample.visible or 0 for sample in group) for group in groups]
    desired = [max(sample.desired for sample in group) for group in groups]
    in_service = [max(sample.in_service for sample in group) for group in groups]
    height = TOP + 2 * PANEL_HEIGHT + GAP + 40
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12">',
            f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
            f'<text x="{LEFT}" y="13" font-size="14">{escape(title)}</text>',
            *_panel(TOP, "jobs waiting", hours, [("#b3541e", waiting)]),
            *_panel(TOP + PANEL_HEIGHT + GAP, "instances", hours, [("#9aa5b1", desired), ("#1f5fa8", in_service)]),
            *_hours(TOP + 2 * PANEL_HEIGHT + GAP, hours[-1]),
            f'<text x="{WIDTH - 20}" y="{TOP + PANEL_HEIGHT + GAP - 8}" text-anchor="end">grey: desired, blue: in service</text>',
            "</svg>\n",
        ]
    )


def _panel(top: int, name: str, hours: Sequence[float], lines: Sequence[tuple[str, Sequence[int]]]) -> list[str]:
    highest = max(1, *(value for _, values in lines for value in values))
    right = WIDTH - LEFT - 20

    def point(hour: float, value: float) -> str:
        x = LEFT + right * hour / max(hours[-1], 1e-9)
        return f"{x:.1f},{top + PANEL_HEIGHT * (1 - value / highest):.1f}"

    drawn = [
        f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="'
        + " ".join(point(hour, value) for hour, value in zip(hours, values, strict=True))
        + '"/>'
        for colour, values in lines
    ]
    return [
        f'<text x="{LEFT}" y="{top - 6}">{name}</text>',
        f'<text x="{LEFT - 6}" y="{top + 10}" text-anchor="end">{highest:,}</text>',
        f'<text x="{LEFT - 6}" y="{top + PANEL_HEIGHT}" text-anchor="end">0</text>',
        f'<rect x="{LEFT}" y="{top}" width="{right}" height="{PANEL_HEIGHT}" fill="none" stroke="#cccccc"/>',
        *drawn,
    ]


def _hours(top: int, last: float) -> list[str]:
    every = next(step for step in (1, 2, 4, 6, 12, 24, 48) if last / step <= 12)
    marks = []
    for hour in range(0, int(last) + 1, every):
        x = LEFT + (WIDTH - LEFT - 20) * hour / max(last, 1e-9)
        marks.append(f'<text x="{x:.1f}" y="{top + 18}" text-anchor="middle">{hour}</text>')
    return [*marks, f'<text x="{WIDTH - 20}" y="{top + 34}" text-anchor="end">hours</text>']
