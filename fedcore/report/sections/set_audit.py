"""What the last audit of a set that the run's generator drew found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fedcore.data.synthetic.audit_record import with_digest
from fedcore.report.read.parse import items, mapping, numbers, read_object, texts, whole
from fedcore.report.read.run import Finding, Inspection, Run, Table

FILE = "audit.json"
_PRIVACY = {
    "trained": "Trained", "held_out": "Held out", "copies_by_pixels": "Copies by pixels",
    "copies_by_features": "By features", "auc": "Membership AUC", "tpr": "Recognised",
}  # fmt: skip
_PRIVACY_NOTES = {
    "copies_by_pixels": "A copy is far nearer to a trained image than other patients' images are.",
    "auc": "Membership: whether the set betrays who was trained on; 0.5 is guessing.",
    "tpr": "Recognised: trained images told from others at 1 % false alarms; 0.01 is guessing.",
}
_ALIKE = {"kid": "KID", "precision": "Precision", "recall": "Recall", "density": "Density", "coverage": "Coverage"}
_ALIKE_NOTES = {
    "kid": "By features, of the drawn images that imitate the site; in brackets of as many of its held-out images. KID "
    "is best near 0, the others near 1."
}
_LEARNED = {"tstr": "Synthetic", "trtr": "Real", "tstr_classes": "Classes", "tstr_images": "Held out"}
_LEARNED_NOTES = {
    "tstr": "Balanced accuracy on held-out real images of a linear classifier of features, trained on drawn images and "
    "on as many real ones of the site."
}
_SPREAD = {"likeness": "Drawn", "real_likeness": "Real"}
_SPREAD_NOTES = {"likeness": "MS-SSIM of pairs of one class; near 1, all images are the same."}
_FRECHET = {"fid": "Drawn", "held_out_fid": "Held out"}
_FRECHET_NOTES = {
    "fid": "To the trained images, by features, of as many drawn as held-out images; lower is better. A group of fewer "
    "images than features has no figure."
}


def read_inspection(folder: Path, gaps: list[str], clean: Callable[[Any], Any]) -> Inspection | None:
    told = read_object(folder / FILE, gaps)
    if not told:
        return None
    if with_digest(told) != told:
        gaps.append(f"{FILE} is not as the audit left it: its digest does not fit.")
    found = clean(told)
    return Inspection(
        name=str(found.get("name") or ""),
        set=str(found.get("set") or ""),
        images=whole(found.get("images")) or 0,
        left_out=len(items(found.get("left_out"))),
        safe=_finding(found.get("safe")),
        useful=_finding(found.get("useful")),
        copies={image: texts(sites) for image, sites in mapping(found.get("copies")).items()},
        sites={site: numbers(told) for site, told in mapping(found.get("sites")).items()},
        quality={group: numbers(told) for group, told in mapping(found.get("quality")).items()},
        encoder=str(found.get("encoder") or ""),
    )


def _finding(told: Any) -> Finding:
    found = mapping(told)
    return Finding(
        str(found.get("answer") or "not measured"), texts(found.get("because")), texts(found.get("not_measured"))
    )


def tables(run: Run) -> tuple[Table, ...]:
    """Privacy and quality; a table, or a column, without a figure is left out."""
    if run.inspection is None:
        return ()
    sites, quality = run.inspection.sites, run.inspection.quality
    groups = {group.removeprefix("site "): told for group, told in quality.items() if told}
    made = (
        _table("Privacy", "Site", _PRIVACY, sites, _plain, _PRIVACY_NOTES),
        _table("Likeness to a site's own images", "Imitating", _ALIKE, sites, _beside, _ALIKE_NOTES),
        _table("Trained on synthetic, tested on real images", "Site", _LEARNED, sites, _plain, _LEARNED_NOTES),
        _table("Pairs of images", "Imitating", _SPREAD, sites, _plain, _SPREAD_NOTES),
        _table("Frechet distance", "Images", _FRECHET, groups, _plain, _FRECHET_NOTES),
    )
    return tuple(table for table in made if table.rows)


def _table(
    title: str, first: str, names: Mapping[str, str], rows: Mapping[str, Mapping[str, float]],
    say: Callable[[Mapping[str, float], str], str], notes: Mapping[str, str],
) -> Table:  # fmt: skip
    there = {key: name for key, name in names.items() if any(key in told for told in rows.values())}
    lines = tuple((owner, *(say(told, key) for key in there)) for owner, told in rows.items() if there)
    return Table(title, (first, *there.values()), lines, " ".join(note for key, note in notes.items() if key in there))


def _plain(told: Mapping[str, float], key: str) -> str:
    return figure(told.get(key))


def _beside(told: Mapping[str, float], key: str) -> str:
    return f"{figure(told.get(key))} ({figure(told.get(f'held_out_{key}'))})"


def figure(value: float | None) -> str:
    """A count as it is, else three digits behind the point, or one where it is large; a dash for None."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if value == int(value) else f"{value:z.3f}" if abs(value) < 10 else f"{value:.1f}"
