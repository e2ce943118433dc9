"""Tables of an audit record and its two verdicts, in the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich.console import Console
from rich.text import Text

from fedcore.data.synthetic.audit_record import AuditRecord
from fedcore.report.units import figure, plural
from fedcore.tables import terminal, text_table

PRIVACY = {
    "training_images": "training", "held_out_images": "held out", "copies_by_pixels": "copies by pixels",
    "copies_by_features": "by features", "membership_auc": "membership AUC", "membership_tpr": "TPR@1%FPR",
}  # fmt: skip
QUALITY = {"kid": "KID", "precision": "precision", "recall": "recall", "density": "density", "coverage": "coverage"}
USE = {"tstr": "synthetic", "trtr": "real", "tstr_classes": "classes", "tstr_images": "tested on"}
MAX_COPIES = 10
"""Copies that are listed by name."""


def print_audit(record: AuditRecord) -> None:
    console = terminal()
    rows = {site: [figure(metrics.get(key)) for key in PRIVACY] for site, metrics in record.sites.items()}
    console.print(text_table("site", list(PRIVACY.values()), rows))
    if any("kid" in metrics for metrics in record.sites.values()):
        console.print("\ncompared with the training images of the site (in brackets: as many held-out images)")
        rows = {site: [_with_held_out(metrics, key) for key in QUALITY] for site, metrics in record.sites.items()}
        console.print(text_table("style of", list(QUALITY.values()), rows))
    if any("tstr" in metrics for metrics in record.sites.values()):
        console.print("\nbalanced accuracy on held-out images of a linear classifier of features, trained on")
        rows = {site: [figure(metrics.get(key)) for key in USE] for site, metrics in record.sites.items()}
        console.print(text_table("site", list(USE.values()), rows))
    if any(row["fid"] is not None for row in record.quality.values()):
        console.print()
        measured = {name: row for name, row in record.quality.items() if row["fid"] is not None}
        rows = {name: [figure(row["fid"]), figure(row["held_out_fid"])] for name, row in measured.items()}
        console.print(text_table("Frechet distance", ["synthetic", "held out"], rows))
    console.print()
    _print_verdicts(console, record)


def _print_verdicts(console: Console, record: AuditRecord) -> None:
    safe, useful = record.safe, record.useful
    word, colour = ("passed", "green") if safe.answer == "yes" else ("failed", "red")
    copies = f": {plural(len(record.copies), 'copy', 'copies')} in {record.images} images"
    console.print(Text.assemble("Privacy check ", (word, colour), copies))
    _print_list(console, safe.reasons)
    for name, sites in list(record.copies.items())[:MAX_COPIES]:
        console.print(f"  {name}: a copy of an image of {', '.join(sites)}")
    if len(record.copies) > MAX_COPIES:
        console.print(f"  ... and {len(record.copies) - MAX_COPIES} more, see audit.json")
    if record.encoder is None:
        console.print("  copies were searched by pixels alone, without an encoder")
    _print_list(console, [f"not measured: {what}" for what in safe.not_measured])
    colour = {"yes": "green", "no": "red", "not measured": "yellow"}[useful.answer]
    console.print(Text.assemble("Fit for use: ", (useful.answer, colour)))
    _print_list(console, [*useful.reasons, *(f"not measured: {what}" for what in useful.not_measured)])


def _print_list(console: Console, texts: Iterable[str]) -> None:
    for text in texts:
        console.print(f"  {text}", soft_wrap=True)


def _with_held_out(metrics: Mapping[str, float], key: str) -> str:
    digits = 3 if key == "kid" else 2  # so that the table fits 80 columns
    synthetic, held_out = (metrics.get(name) for name in (key, f"held_out_{key}"))
    return f"{_short(synthetic, digits)} ({_short(held_out, digits)})"


def _short(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
