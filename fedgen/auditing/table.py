"""What an audit found, in the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich.console import Console
from rich.text import Text

from fedcore.data.synthetic.audit_record import AuditRecord
from fedcore.report.units import figure, plural
from fedcore.tables import terminal, text_table

PRIVACY = {
    "trained": "trained", "held_out": "held out", "copies_by_pixels": "copies by pixels",
    "copies_by_features": "by features", "auc": "membership AUC", "tpr": "recognised",
}  # fmt: skip
QUALITY = {"kid": "KID", "precision": "precision", "recall": "recall", "density": "density", "coverage": "coverage"}
LEARNED = {"tstr": "synthetic", "trtr": "real", "tstr_classes": "classes", "tstr_images": "tested on"}
SHOWN = 10


def show(found: AuditRecord) -> None:
    """Tables, and the two verdicts."""
    console = terminal()
    rows = {site: [figure(told.get(key)) for key in PRIVACY] for site, told in found.sites.items()}
    console.print(text_table("site", list(PRIVACY.values()), rows))
    if any("kid" in told for told in found.sites.values()):
        console.print("\nlikeness to a site's own images (in brackets: as many of its held-out images)")
        rows = {site: [_beside(told, key) for key in QUALITY] for site, told in found.sites.items()}
        console.print(text_table("imitating", list(QUALITY.values()), rows))
    if any("tstr" in told for told in found.sites.values()):
        console.print("\nbalanced accuracy on held-out images of a linear classifier of features, trained on")
        rows = {site: [figure(told.get(key)) for key in LEARNED] for site, told in found.sites.items()}
        console.print(text_table("site", list(LEARNED.values()), rows))
    if any(row["fid"] is not None for row in found.quality.values()):
        console.print()
        there = {name: row for name, row in found.quality.items() if row["fid"] is not None}
        rows = {name: [figure(row["fid"]), figure(row["held_out_fid"])] for name, row in there.items()}
        console.print(text_table("Frechet distance", ["drawn", "held out"], rows))
    console.print()
    _verdict(console, found)


def _verdict(console: Console, found: AuditRecord) -> None:
    safe, useful = found.safe, found.useful
    word, colour = ("passed", "green") if safe.answer == "yes" else ("failed", "red")
    copies = f": {plural(len(found.copies), 'copy', 'copies')} in {found.images} images"
    console.print(Text.assemble("Privacy check ", (word, colour), copies))
    _listed(console, safe.because)
    for name, sites in list(found.copies.items())[:SHOWN]:
        console.print(f"  {name}: a copy, say {', '.join(sites)}")
    if len(found.copies) > SHOWN:
        console.print(f"  ... and {len(found.copies) - SHOWN} more, see audit.json")
    if found.encoder is None:
        console.print("  copies were looked for by pixels alone")
    _listed(console, [f"not measured: {what}" for what in safe.not_measured])
    colour = {"yes": "green", "no": "red", "not measured": "yellow"}[useful.answer]
    console.print(Text.assemble("Fit for use: ", (useful.answer, colour)))
    _listed(console, [*useful.because, *(f"not measured: {what}" for what in useful.not_measured)])


def _listed(console: Console, texts: Iterable[str]) -> None:
    for text in texts:
        console.print(f"  {text}", soft_wrap=True)


def _beside(told: Mapping[str, float], key: str) -> str:
    digits = 3 if key == "kid" else 2  # so that the table fits 80 columns
    own, held = (told.get(name) for name in (key, f"held_out_{key}"))
    return f"{_short(own, digits)} ({_short(held, digits)})"


def _short(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
