"""What the pictures of the dashboards say of a value, as Grafana would."""

from typing import Any

import pytest

from bench.grafana_values import COLOURS, formatted, mapped, merged_rows, threshold_colour
from tests.grafana import Look
from tests.prometheus import Series


@pytest.mark.parametrize(
    ("value", "unit", "decimals", "said"),
    [
        (0.1234, "percentunit", 0, "12 %"),
        (0.1234, "percentunit", None, "12.3 %"),
        (0.0005, "s", None, "500 µs"),
        (1.22, "s", None, "1.22 s"),
        (600, "s", None, "10 min"),
        (86_400, "s", None, "1 d"),
        (-30, "s", None, "-30 s"),
        (0, "s", None, "0 s"),
        (3 * 2**30, "bytes", None, "3 GiB"),
        (12_000, "short", None, "12 K"),
        (7, "short", 0, "7"),
        (71, "celsius", None, "71 °C"),
        (14.4, "suffix:×", 1, "14.4×"),
        (-0.25, "none", 2, "-0.25"),
        (float("nan"), "s", None, "–"),
    ],
)
def test_values_have_their_unit(value: float, unit: str, decimals: int | None, said: str) -> None:
    assert formatted(value, unit, decimals) == said


@pytest.mark.parametrize(
    ("value", "colour"), [(-1, "green"), (0.9, "green"), (1, "orange"), (99, "orange"), (100, "red")]
)
def test_a_threshold_holds_from_its_value_on(value: float, colour: str) -> None:
    steps: list[dict[str, Any]] = [
        {"value": None, "color": "green"},
        {"value": 1, "color": "orange"},
        {"value": 100, "color": "red"},
    ]
    assert threshold_colour(value, steps) == COLOURS[colour]


def test_a_mapping_names_a_value() -> None:
    mappings = [{"type": "value", "options": {"3": {"text": "busy", "color": "green"}, "x": {"text": "y"}}}]
    assert mapped("3", mappings) == ("busy", COLOURS["green"])
    assert mapped("x", mappings) == ("y", None)
    assert mapped("4", mappings) is None


def test_rows_of_a_table_are_joined_on_the_labels_they_share() -> None:
    panel = {"targets": [{"refId": "A"}, {"refId": "B"}]}
    up = [Series({"instance": "i-1"}, [(0, 1)]), Series({"instance": "i-2"}, [(0, 0)])]
    models = [Series({"instance": "i-1", "model": "base"}, [(0, 1)])]
    assert merged_rows(panel, [up, models]) == [
        {"instance": "i-1", "model": "base", "Value #A": 1, "Value #B": 1},
        {"instance": "i-2", "Value #A": 0},
    ]
    assert merged_rows({"targets": [{"refId": "A"}]}, [up])[1] == {"instance": "i-2", "Value": 0}


def test_variables_and_intervals_are_filled_in() -> None:
    look = Look(
        {"environment": "d", "instance": ["i-1", "i.2"]}, range_seconds=3600, step_seconds=30, scrape_seconds=15
    )
    assert look.filled('x{a="$environment", b=~"$instance"}[$__rate_interval]') == (
        'x{a="d", b=~"(i-1|i\\\\.2)"}[60000ms]'
    )
    assert look.filled("x[$__range] + ${environment}") == "x[3600000ms] + d"
    assert look.label_values("label_values(x{a='$environment'}, b)") == ("x{a='d'}", "b")
    with pytest.raises(ValueError, match="nonsense"):
        look.filled("$nonsense")
