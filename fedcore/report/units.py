"""Numbers as people read them."""

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
    """The decimal unit in which `size` bytes reads best."""
    units = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
    return next(((unit, name) for unit, name in units if size >= unit), (1.0, "B"))


def size(found: float | int | None) -> str:
    """Bytes in the decimal unit that reads best: 1.23 MB; "" for None."""
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
    """`unit` is that of distances, where it is known."""
    first, _, number = name.rpartition("_")
    of_all = _NAMES.get(name, name.replace("_", " ").capitalize())
    told = f"{metric_name(first)} {number}" if number.isdigit() else of_all  # a number is of a structure
    return f"{told} ({unit})" if unit and is_distance(name) else told


def is_distance(name: str) -> bool:
    return name.startswith("hd95")


def measured_on(grid: str) -> str:
    """What masks were measured on, `grid` as scores.json has it."""
    return f"measured on the grid of {'the files' if grid == 'files' else f'{grid} pixels'}"


def interval(score: Estimate) -> str:
    return "" if score.low is None or score.high is None else f"{score.low:.3f} to {score.high:.3f}"


def points(score: Estimate) -> str:
    """A difference with its sign and, where it is known, its interval: +1.2 (−0.3 to +2.7)."""
    if score.low is None or score.high is None:
        return _signed(score.value)
    return f"{_signed(score.value)} ({_signed(score.low)} to {_signed(score.high)})"


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")


def figure(value: float | None) -> str:
    """A count without a point, another number with three decimals, a dash where there is none."""
    return "-" if value is None else f"{value:.0f}" if value == int(value) else f"{value:.3f}"
