"""The audit record, made at the server from the answers of all sites."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from statistics import fmean
from typing import Any

from fedcore.data.synthetic.audit_record import AuditRecord, Figures
from fedcore.messages.answer import Contribution
from fedgen.auditing.audit import AuditAnswer, AuditRequest, in_style_of, style_of
from fedgen.auditing.diversity import mean_pair_similarity, near_duplicates_and_blanks
from fedgen.auditing.moments import Moments, frechet, pooled
from fedgen.auditing.quality import FeatureSet, random_subsets
from fedgen.generator import Conditions
from fedgen.synthetic.synthetic_set import SyntheticImage, SyntheticSet

NONE = "not given"
"""Name of the group of images without a class, or without a site's style."""
Answers = Sequence[Contribution[AuditAnswer]]


def record_of(
    whole: SyntheticSet, left_out: Collection[int], request: AuditRequest, answers: Answers, conditions: Conditions,
    encoder: str | None, options: Mapping[str, Any],
) -> AuditRecord:  # fmt: skip
    """The record of an audit.

    Args:
        whole: The set.
        left_out: Numbers of images that were not audited.
        request: What was sent.
        answers: One of each site.
        conditions: By whose numbers the request names classes and sites.
        encoder: SHA-256 of the encoder's weights.
        options: To repeat the audit.
    """
    audited = whole.without(left_out)
    copies = _copies(answers, audited)
    return AuditRecord(
        set=request.set, generator=request.generator, data=whole.settings["data"], images=len(audited.images),
        left_out=sorted(left_out), copies=copies, groups=_groups(whole, copies, left_out),
        missing_classes=_missing_classes(audited), sites={a.site: a.metrics for a in answers},
        of_set=_set_metrics(request), quality=_frechet(answers, request, conditions), encoder=encoder,
        label_fraction=whole.settings.get("label_fraction"), options=dict(options),
    )  # fmt: skip


def _copies(answers: Answers, audited: SyntheticSet) -> dict[str, list[str]]:
    """Names of the images that are copies of an image of any site, with those sites."""
    is_copy = {a.site: a.message.copies.any(0) for a in answers}
    found = {image.path.name: [s for s in is_copy if is_copy[s][at]] for at, image in enumerate(audited.images)}
    return {name: sites for name, sites in found.items() if sites}


def _groups(whole: SyntheticSet, copies: Collection[str], left_out: Collection[int]) -> dict[str, dict[str, int]]:
    """Numbers of images, of copies among them, and of images that are left out."""
    kinds = {
        "images": [image for image in whole.images if image.number not in left_out],
        "copies": [image for image in whole.images if image.number not in left_out and image.path.name in copies],
        "left_out": [image for image in whole.images if image.number in left_out],
    }
    counts = {kind: Counter(name for image in images for name in _groups_of(image)) for kind, images in kinds.items()}
    names = sorted({name for of in counts.values() for name in of})
    return {name: {kind: of[name] for kind, of in counts.items()} for name in names}


def _groups_of(image: SyntheticImage) -> tuple[str, str, str]:
    return "all", f"class {image.label or NONE}", f"site {image.site_style or NONE}"


def _missing_classes(audited: SyntheticSet) -> list[str]:
    """Classes that the set was requested with and has no image of."""
    return sorted({name for name in audited.settings.get("classes", ()) if name} - {i.label for i in audited.images})


def _set_metrics(request: AuditRequest) -> dict[str, float]:
    """Figures of the set that need no real image."""
    similarity = mean_pair_similarity(request.images, request.labels)
    return near_duplicates_and_blanks(request.images) | ({} if similarity is None else {"ms_ssim": similarity})


def _frechet(answers: Answers, request: AuditRequest, conditions: Conditions) -> dict[str, Figures]:
    """Frechet distances of synthetic and of held-out images to the training images, by group."""
    if not request.features.shape[1]:
        return {}
    synthetic = FeatureSet(request.features, request.labels)
    training, held_out = (pooled(getattr(a.message, name) for a in answers) for name in ("training", "held_out"))
    rows = {"all": (training.all_groups(), held_out.all_groups(), synthetic)}
    for label, name in enumerate(conditions.classes):
        of_class = synthetic.take((request.labels == label).nonzero()[:, 0])
        rows[f"class {name}"] = (training.group(label), held_out.group(label), of_class)
    for a in answers:
        own = synthetic.take(in_style_of(request.site_styles, style_of(conditions, a.site)).nonzero()[:, 0])
        rows[f"site {a.site}"] = (a.message.training.all_groups(), a.message.held_out.all_groups(), own)
    return {name: _distances(*row) for name, row in rows.items()}


def _distances(training: Moments, held_out: Moments, synthetic: FeatureSet) -> Figures:
    """Of as many synthetic images as were held out, the mean over ten random subsets, since the distance falls with the
    number of images. Sites send sums of the held-out images, which cannot be reduced to fewer images: where there are
    more held-out than synthetic images, the held-out distance is missing.
    """
    if not 0 < held_out.count <= len(synthetic):
        return {"fid": _distance(training, Moments.of(synthetic.features)), "held_out_fid": None}
    subsets = random_subsets(synthetic, int(held_out.count))
    distances = [_distance(training, Moments.of(part.features)) for part in subsets]
    found = [one for one in distances if one is not None]
    return {"fid": fmean(found) if found else None, "held_out_fid": _distance(training, held_out)}


def _distance(a: Moments, b: Moments) -> float | None:
    """None where a covariance of so few images has no full rank, and the distance means little."""
    return frechet(a, b) if min(a.count, b.count) > a.total.shape[-1] else None
