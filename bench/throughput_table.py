"""Format the rows of many runs as one table: a row per corpus and peer, with medians over the repetitions."""

from collections.abc import Sequence
from statistics import median

from bench.peers import PEERS
from bench.report import markdown, spread
from bench.run import Row

BASELINE = next(iter(PEERS))
HEADINGS = [
    "Corpus",
    "Peer",
    "Audio s / s",
    "Ratio",
    "WER",
    "DER",
    "Peak MiB",
    "Slot idle",
    "Cores idle",
    "Daemon",
    "Stages",
]
GPU_HEADINGS = ["GPU busy", "VRAM MiB"]
LEAST_SHARE = 0.005  # of a named stage
NOT_REPORTED = "–"
MIB = 2**20


def table(rows: Sequence[Row]) -> str:
    has_gpu = any(row.gpu for row in rows)
    headings = [*HEADINGS, *GPU_HEADINGS] if has_gpu else HEADINGS
    return markdown(
        [headings, *(_cells(group, rows, has_gpu) for group in _groups(rows))], words=(0, 1, HEADINGS.index("Stages"))
    )


def ratios(group: Sequence[Row], rows: Sequence[Row]) -> list[float]:
    """Return the speed of each run relative to the baseline in the same repetition, on the same files; empty without a
    baseline."""
    baselines = {(row.corpus, row.repetition): row.run for row in rows if row.peer == BASELINE}
    return [
        row.run.speed / baselines[key].speed_on([file.name for file in row.run.files])
        for row in group
        if (key := (row.corpus, row.repetition)) in baselines
    ]


def comparisons(rows: Sequence[Row], peer: str = "transcriptd") -> str:
    """Format the peer's speed as a multiple of each other peer's, from ratios on the same files."""
    found = {(group[0].corpus, group[0].peer): ratios(group, rows) for group in _groups(rows)}
    lines = []
    for corpus in dict.fromkeys(row.corpus for row in rows):
        own = found.get((corpus, peer))
        others = [
            f"{median(own) / median(theirs):.1f} × {PEERS[other].title}"
            for (of, other), theirs in found.items()
            if own and theirs and of == corpus and other != peer
        ]
        lines += [f"- {corpus}: {'; '.join(others)}\n"] if others else []
    return f"The speed of {PEERS[peer].title}, as a multiple of each peer's:\n\n{''.join(lines)}" if lines else ""


def _groups(rows: Sequence[Row]) -> list[list[Row]]:
    """Group the repetitions by corpus and peer, with corpora in their order and peers in the order of PEERS."""
    corpora = list(dict.fromkeys(row.corpus for row in rows))
    groups = [[row for row in rows if (row.corpus, row.peer) == (corpus, peer)] for corpus in corpora for peer in PEERS]
    return [group for group in groups if group]


def _cells(group: Sequence[Row], rows: Sequence[Row], has_gpu: bool) -> list[str]:
    first, runs = group[0], [row.run for row in group]
    title = PEERS[first.peer].title
    if len(first.run.files) < first.files:
        title += f" ({len(first.run.files)} of {first.files} files)"
    speed_ratios = ratios(group, rows)
    cells = [
        first.corpus,
        title,
        spread([run.speed for run in runs]),
        spread(speed_ratios) if speed_ratios else NOT_REPORTED,
        spread([run.wer for run in runs], decimals=3),
        _told([run.der for run in runs], decimals=3),
        f"{max(run.peak_bytes for run in runs) / MIB:.0f}",
        _percent([run.slot_idle for run in runs]),
        _percent([run.processors_idle for run in runs]),
        _percent([run.daemon_share for run in runs], decimals=1),
        _stages(group),
    ]
    if has_gpu:
        uses = [row.gpu for row in group if row.gpu]
        cells += [_percent([use.busy for use in uses]), f"{max(use.peak_bytes for use in uses) / MIB:.0f}"]
    return cells


def _told(values: Sequence[float | None], decimals: int) -> str:
    known = [value for value in values if value is not None]
    return spread(known, decimals) if known else NOT_REPORTED


def _percent(shares: Sequence[float | None], decimals: int = 0) -> str:
    known = [share for share in shares if share is not None]
    return f"{median(known):.{decimals}%}" if known else NOT_REPORTED


def _stages(group: Sequence[Row]) -> str:
    """Format each stage's share of the time of all stages, over all repetitions."""
    names = dict.fromkeys(stage for row in group for stage in row.run.stage_seconds)
    seconds = {name: sum(row.run.stage_seconds.get(name, 0.0) for row in group) for name in names}
    total = sum(seconds.values()) or 1.0
    shares = {name: part / total for name, part in seconds.items()}
    return ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if share >= LEAST_SHARE) or NOT_REPORTED
