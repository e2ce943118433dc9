"""Tables of the last audit of a synthetic set that the run's generator made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fedcore.report.read.run import Run
from fedcore.report.units import rounded

_PRIVACY = {
    "training_images": "Training images", "held_out_images": "Held-out images", "copies_by_pixels": "Copies by pixels",
    "copies_by_features": "Copies by features", "membership_auc": "Membership AUC",
    "membership_tpr": "TPR at 1 % FPR",
}  # fmt: skip
_PRIVACY_NOTES = {
    "copies_by_pixels": "Copy: closer to a training image than images of other patients are.",
    "membership_auc": "Membership AUC: whether the set reveals which images were trained on; 0.5 is chance.",
    "membership_tpr": "TPR at 1 % FPR: training images that an attack finds at 1 % false alarms; 0.01 is chance.",
}
_SIMILARITY = {"kid": "KID", "precision": "Precision", "recall": "Recall", "density": "Density", "coverage": "Coverage"}
_SIMILARITY_NOTES = {
    "kid": "By features, for synthetic images in the style of the site; in brackets the same for as many of its "
    "held-out images. KID: best near 0; the others: best near 1."
}
_TSTR = {"tstr": "Synthetic", "trtr": "Real", "tstr_classes": "Classes", "tstr_images": "Held-out images"}
_TSTR_NOTES = {
    "tstr": "Balanced accuracy on held-out real images of a linear classifier on features, trained on synthetic images "
    "or on as many real ones of the site."
}
_DIVERSITY = {"ms_ssim": "Synthetic", "real_ms_ssim": "Real"}
_DIVERSITY_NOTES = {"ms_ssim": "MS-SSIM between pairs of images of one class; near 1: all images are the same."}
_FRECHET = {"fid": "Synthetic", "held_out_fid": "Held out"}
_FRECHET_NOTES = {
    "fid": "Distance to the training images by features, with as many synthetic as held-out images; lower is better. "
    "Not computed for a group with fewer images than feature dimensions."
}


@dataclass(frozen=True)
class AuditTable:
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str


def audit_tables(run: Run) -> tuple[AuditTable, ...]:
    """Privacy and quality; tables and columns without a figure are left out."""
    if run.set_audit is None:
        return ()
    sites, quality = run.set_audit.sites, run.set_audit.quality
    groups = {group.removeprefix("site "): figures for group, figures in quality.items() if figures}
    made = (
        _table("Privacy", "Site", _PRIVACY, sites, _plain, _PRIVACY_NOTES),
        _table("Similarity to the site's own images", "Style of site", _SIMILARITY, sites, _with_held_out,
               _SIMILARITY_NOTES),
        _table("Trained on synthetic, tested on real images (TSTR)", "Site", _TSTR, sites, _plain, _TSTR_NOTES),
        _table("Diversity", "Style of site", _DIVERSITY, sites, _plain, _DIVERSITY_NOTES),
        _table("Frechet distance", "Images", _FRECHET, groups, _plain, _FRECHET_NOTES),
    )  # fmt: skip
    return tuple(table for table in made if table.rows)


def _table(
    title: str, first: str, names: Mapping[str, str], rows: Mapping[str, Mapping[str, float]],
    cell: Callable[[Mapping[str, float], str], str], notes: Mapping[str, str],
) -> AuditTable:  # fmt: skip
    present = {key: name for key, name in names.items() if any(key in figures for figures in rows.values())}
    lines = tuple((owner, *(cell(found, key) for key in present)) for owner, found in rows.items() if present)
    note = " ".join(note for key, note in notes.items() if key in present)
    return AuditTable(title, (first, *present.values()), lines, note)


def _plain(figures: Mapping[str, float], key: str) -> str:
    return rounded(figures.get(key))


def _with_held_out(figures: Mapping[str, float], key: str) -> str:
    return f"{rounded(figures.get(key))} ({rounded(figures.get(f'held_out_{key}'))})"
