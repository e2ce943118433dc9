"""Numbers as text."""

from __future__ import annotations

import pytest

from fedcore.report.read.run import Estimate
from fedcore.report.units import duration, interval, metric_name, percent, plural, points, rounded, size


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (None, ""),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (1_234_567, "1.23 MB"),
        (123_456_789, "123 MB"),
        (5e9, "5 GB"),
    ],
)
def test_sizes(found: float | int | None, text: str) -> None:
    assert size(found) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""),
        (1.94, "1.9 s"),
        (59.99, "1 min 00 s"),
        (81.2, "1 min 21 s"),
        (3599.9, "1 h 00 min"),
        (7500.0, "2 h 05 min"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_metric_names() -> None:
    assert [metric_name(name) for name in ("auroc", "balanced_accuracy", "f1")] == [
        "AUROC",
        "Balanced accuracy",
        "F1",
    ]
    assert [metric_name(name, "mm") for name in ("dice_1", "hd95", "hd95_2")] == ["Dice 1", "HD95 (mm)", "HD95 2 (mm)"]


def test_counts_fractions_and_intervals() -> None:
    assert [plural(1, "run"), plural(2000, "run")] == ["1 run", "2,000 runs"]
    assert [percent(0.01), percent(0.125), percent(1.0)] == ["1 %", "12.5 %", "100 %"]
    assert interval(Estimate(0.5, 0.25, 0.75)) == "0.250 to 0.750"
    assert interval(Estimate(0.5, None, 0.75)) == ""


def test_points_have_a_sign() -> None:
    assert points(Estimate(1.23, -0.3, 2.74)) == "+1.2 (−0.3 to +2.7)"
    assert points(Estimate(-0.5, None, None)) == "−0.5"


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (3.0, "3"), (1234.0, "1,234"), (0.1234, "0.123"), (-1e-9, "0.000"), (12.34, "12.3")],
)
def test_numbers_of_tables_are_short(value: float | None, text: str) -> None:
    assert rounded(value) == text
