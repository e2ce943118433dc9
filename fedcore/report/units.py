"""Numbers, metrics and scores as text."""

from __future__ import annotations

from fedcore.report.read.run import Estimate

_NAMES = {
    "auroc": "AUROC",
    "f1": "F1",
    "knn": "kNN",
    "auprc": "AUPRC",
    "mcc": "MCC",
    "ece": "Calibration error",
    "hd95": "HD95",
    "kappa_linear": "Linear kappa",
    "kappa_quadratic": "Quadratic kappa",
}


def size_unit(size: float | int) -> tuple[float, str]:
    """The decimal unit for `size` bytes, as a number of bytes and its name."""
    units = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
    return next(((unit, name) for unit, name in units if size >= unit), (1.0, "B"))


def size(found: float | int | None) -> str:
    """Bytes in a decimal unit, such as 1.23 MB; "" for None."""
    if found is None:
        return ""
    unit, name = size_unit(found)
    if unit == 1.0:
        return f"{found:.0f} B"
    return f"{found / unit:.3g} {name}" if found / unit < 100 else f"{found / unit:.0f} {name}"


def duration(seconds: float | None) -> str:
    """1.9 s, 1 min 21 s, 2 h 05 min; "" for None."""
    if seconds is None:
        return ""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60:02d} min"


def plural(count: int, noun: str, several: str = "") -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {several or noun + 's'}"


def percent(share: float) -> str:
    return f"{100 * share:g} %"


def metric_name(name: str, unit: str = "") -> str:
    """The title of a metric; `unit` is that of distances, where it is known."""
    first, _, number = name.rpartition("_")
    of_all = _NAMES.get(name, name.replace("_", " ").capitalize())
    title = f"{metric_name(first)} {number}" if number.isdigit() else of_all  # the number of a structure
    return f"{title} ({unit})" if unit and is_distance(name) else title


def is_distance(name: str) -> bool:
    return name.startswith("hd95")


def measured_on(grid: str) -> str:
    """The grid on which masks were measured; `grid` as in scores.json."""
    sides = f"{grid} {'voxels' if grid.count('x') == 2 else 'pixels'}"
    return f"measured on the grid of {'the files' if grid == 'files' else sides}"


def interval(score: Estimate) -> str:
    return "" if score.low is None or score.high is None else f"{score.low:.3f} to {score.high:.3f}"


def points(score: Estimate) -> str:
    """A difference in percentage points with its sign and its interval, if known: +1.2 (−0.3 to +2.7)."""
    if score.low is None or score.high is None:
        return _signed(score.value)
    return f"{_signed(score.value)} ({_signed(score.low)} to {_signed(score.high)})"


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")


def rounded(value: float | None) -> str:
    """For tables of pages: a count without decimals, else three decimals, or one from 10 on; a dash for None."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if value == int(value) else f"{value:z.3f}" if abs(value) < 10 else f"{value:.1f}"


def figure(value: float | None) -> str:
    """For the terminal: a count without decimals, another number with three decimals, a dash for None."""
    return "-" if value is None else f"{value:.0f}" if value == int(value) else f"{value:.3f}"
