"""What an audit found, in the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console

from fedcore.grid import grid
from fedcore.report.units import figure
from fedgen.inspection import Inspection

PRIVACY = {
    "trained": "trained", "held_out": "held out", "copies_by_pixels": "copies by pixels",
    "copies_by_features": "by features", "auc": "membership AUC", "tpr": "recognised",
}  # fmt: skip
QUALITY = {"kid": "KID", "precision": "precision", "recall": "recall", "density": "density", "coverage": "coverage"}
SHOWN = 10


def show(found: Inspection) -> None:
    """Tables, and whether the set passes."""
    console = Console(highlight=False)
    rows = {site: [figure(told.get(key)) for key in PRIVACY] for site, told in found.sites.items()}
    console.print(grid("site", list(PRIVACY.values()), rows))
    if any("kid" in told for told in found.sites.values()):
        console.print("\nlike a site's own images (in brackets: its held-out images)")
        rows = {site: [_beside(told, key) for key in QUALITY] for site, told in found.sites.items()}
        console.print(grid("imitating", list(QUALITY.values()), rows))
    if any(row["fid"] is not None for row in found.quality.values()):
        console.print()
        rows = {name: [figure(row["fid"]), figure(row["held_out_fid"])] for name, row in found.quality.items()}
        console.print(grid("Frechet distance", ["drawn", "held out"], rows))
    console.print()
    _verdict(console, found)


def _verdict(console: Console, found: Inspection) -> None:
    if found.encoder is None:
        console.print("by pixels alone; --encoder PRETRAIN_RUN looks at features too, and tells the quality")
    if found.passes:
        console.print(f"[green]passes[/]: no image of {found.images} is a copy")
        return
    console.print("[red]does not pass[/]")
    for text in found.objections:
        console.print(f"  {text}")
    for name, sites in list(found.copies.items())[:SHOWN]:
        console.print(f"  {name}: a copy, say {', '.join(sites)}")
    if len(found.copies) > SHOWN:
        console.print(f"  ... and {len(found.copies) - SHOWN} more, see audit.json")


def _beside(told: Mapping[str, float], key: str) -> str:
    return f"{figure(told.get(key))} ({figure(told.get(f'held_out_{key}'))})"
