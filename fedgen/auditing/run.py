"""`fedpretrain generate audit`: every site compares a synthetic set with its own images; their answers together make
the audit record."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from jaxtyping import Float
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from fedcore.config.recipe import read_recipe
from fedcore.config.stages import stage_of
from fedcore.data.cohort import Cohort
from fedcore.data.synthetic.audit_record import AUDIT, AuditRecord, Figures, with_digest
from fedcore.errors import InputError
from fedcore.files.lock import locked
from fedcore.files.writing import require_no_links, write_json
from fedcore.messages.answer import Contribution
from fedcore.messages.message import Weights
from fedcore.messages.round import Round
from fedcore.models.encoder_store import TENSORS, build_encoder, find_encoder
from fedcore.runs.communication import ANSWERS
from fedcore.runs.folder import RunFolder
from fedcore.server.sites import Sites
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.visit import Visit
from fedcore.transport.read_images import read_images
from fedcore.transport.simulation import simulate
from fedgen.auditing.allowance import CountedAudit
from fedgen.auditing.audit import BATCH, Audit, AuditAnswer, AuditRequest, in_style_of
from fedgen.auditing.diversity import mean_pair_similarity, near_duplicates_and_blanks
from fedgen.auditing.moments import Moments, frechet, pooled
from fedgen.auditing.quality import FeatureSet, random_subsets
from fedgen.generator import Conditions
from fedgen.synthetic.provenance import require_origin
from fedgen.synthetic.synthetic_set import SyntheticImage, SyntheticSet

STAGE = {"generate": "generate train", "finetune": "finetune"}
"""The command of a run that synthetic sets can come from, by the name in its run.json."""
AUDIT_SET = "audit"
"""The word of the request to audit a set."""
NONE = "not given"
"""Name of the group of images without a class, or without a site's style."""


def audit(
    run: Path, folder: Path, encoder: Path | None = None, overrides: Sequence[str] = (), left_out: Collection[int] = ()
) -> AuditRecord:
    """Lets every site of `run` audit the set in `folder`, writes `audit.json` there and returns the record.

    The run's folder keeps it too, for its page: of the last audit of a set of this run.

    Args:
        run: The finished run of `generate train` or `finetune` that the set comes from; the set is compared with its
            images.
        folder: The set.
        encoder: A pretraining run or an encoder's folder, for features; null: pixels alone.
        overrides: Of the run's recipe, such as `--data.manifest` where the images have moved.
        left_out: Numbers of images that will not be released.

    Raises:
        InputError: There is no such run or set, the set is of another run or the images are others, the encoder does
            not fit, or a site declined.
    """
    with ExitStack() as locks:
        for place in (run, folder):
            if place.is_dir():  # else the error below names what is missing
                require_no_links(place)
                locks.enter_context(locked(place))
        return _audit(run, folder, encoder, overrides, left_out)


def _audit(
    run: Path, folder: Path, encoder: Path | None, overrides: Sequence[str], left_out: Collection[int]
) -> AuditRecord:
    whole = SyntheticSet.open(folder)
    audited = whole.without(left_out)
    recipe = _recipe(run, overrides)
    recipe["policy"].require_metrics("an audit")
    cohort = read_images(recipe["data"])
    require_origin(run, folder, whole.settings, cohort)
    conditions = Conditions(cohort.classes, tuple(cohort.split("train")))
    extractor = _FeatureExtractor(encoder, cohort)
    request = _request(audited, conditions, extractor, recipe["visit"])
    digest, generator = whole.digest(), whole.settings["generator"]
    answers = _answers(
        cohort, extractor, request, CountedAudit(Audit(conditions, digest=digest), generator), recipe, run
    )
    copies = _copies(answers, audited)
    record = AuditRecord(
        set=digest, generator=generator, data=whole.settings["data"], images=len(audited.images),
        left_out=sorted(left_out), copies=copies, groups=_groups(whole, copies, left_out),
        missing_classes=_missing_classes(audited), sites={a.site: a.metrics for a in answers},
        of_set=_set_metrics(request), quality=_frechet(answers, request, conditions), encoder=extractor.digest,
        label_fraction=whole.settings.get("label_fraction"),
        options={"run": str(run), "encoder": str(encoder) if encoder else None, "overrides": list(overrides)},
    )  # fmt: skip
    write_json(folder / AUDIT, record.as_dict() | {"options": record.options})
    write_json(run / AUDIT, with_digest(record.as_dict() | {"name": folder.resolve().name}))
    return record


class _FeatureExtractor(LightningModule):
    """The encoder whose features sites compare; without one, features have no dimensions."""

    def __init__(self, path: Path | None, cohort: Cohort):
        super().__init__()
        self.encoder: nn.Module = build_encoder(find_encoder(path)) if path else _NoFeatures()
        self.digest = hashlib.sha256((find_encoder(path) / TENSORS).read_bytes()).hexdigest() if path else None
        config = getattr(self.encoder, "config", {})
        wanted = {"spatial_dims": cohort.spatial_dims, "channels": cohort.channels}
        if path and (wrong := [f"{k} {config[k]}, not {v}" for k, v in wanted.items() if config.get(k, v) != v]):
            raise InputError(f"the encoder in {path} does not fit the images: it takes {' and '.join(wrong)}")


class _NoFeatures(nn.Module):
    def forward(self, images: Float[Tensor, "n c *space"]) -> Float[Tensor, "n 0"]:
        return images.new_zeros(len(images), 0)


def _recipe(run: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """What the recipe of the run, with the overrides, builds."""
    about = RunFolder(run).about()
    if str(about.get("command")) not in STAGE or about.get("status") != "finished":
        found = f"{about.get('command', 'no')} run that is {about.get('status', 'missing')}"
        raise InputError(f"an audit takes a finished run of generate train or finetune, {run} holds a {found}")
    RunFolder(run).finished()
    stage = stage_of(STAGE[about["command"]])
    return read_recipe(stage, "generate audit", [str(run / "recipe.yaml"), *overrides]).build()


def _request(audited: SyntheticSet, conditions: Conditions, extractor: _FeatureExtractor, visit: Visit) -> AuditRequest:
    images = audited.pixels()
    with torch.inference_mode():
        extractor.encoder.to(visit.device).eval()
        parts = [extractor.encoder(part.float().to(visit.device)).float().cpu() for part in images.split(BATCH)]
        extractor.encoder.cpu()
    site_styles = torch.tensor([conditions.site_index(i.site_style) for i in audited.images])
    labels = torch.tensor([conditions.class_index(i.label) for i in audited.images])
    numbers = torch.tensor([i.number for i in audited.images])
    return AuditRequest(images.float(), torch.cat(parts), site_styles, labels, numbers, Weights(_weights(extractor)))


def _weights(extractor: _FeatureExtractor) -> dict[str, Tensor]:
    return {k: t.detach().clone() for k, t in extractor.state_dict().items()}


def _answers(
    cohort: Cohort, extractor: _FeatureExtractor, request: AuditRequest, visitor: CountedAudit, recipe: dict[str, Any],
    run: Path,
) -> list[Contribution[AuditAnswer]]:  # fmt: skip
    images, held_out = cohort.split("train"), _held_out(cohort)
    local, policy = LocalTrainer(extractor, (), recipe["visit"]), recipe["policy"].for_audit()
    name, digest = RunFolder(run).name, RunFolder(run).digest
    simulation = simulate(
        images, local, {AUDIT_SET: visitor}, test=held_out, policy=policy, folder=run / "sites", recipe=digest
    )
    sites = Sites.of(simulation, name, digest, record=run / ANSWERS)
    turn = Round(0, 1, recipe["seed"])
    answers = sites.query_all(AUDIT_SET, request, list(images), turn, AuditAnswer, "audited")
    if wrong := [a.site for a in answers if a.message.copies.shape[1] not in (0, len(request.numbers))]:
        raise InputError(f"{wrong[0]} audited another number of images; install the same version on both sides")
    return answers


def _copies(answers: Sequence[Contribution[AuditAnswer]], audited: SyntheticSet) -> dict[str, list[str]]:
    """Names of the images that are copies of an image of any site, with those sites."""
    is_copy = {a.site: a.message.copies.any(0) for a in answers}
    found = {image.path.name: [s for s in is_copy if is_copy[s][at]] for at, image in enumerate(audited.images)}
    return {name: sites for name, sites in found.items() if sites}


def _held_out(cohort: Cohort) -> dict[str, Any]:
    """All images that were not trained on."""
    parts = {site: images.take((images.splits != "train").nonzero()[0]) for site, images in cohort.sites.items()}
    return {site: images for site, images in parts.items() if len(images)}


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


def _frechet(
    answers: Sequence[Contribution[AuditAnswer]], request: AuditRequest, conditions: Conditions
) -> dict[str, Figures]:
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
        own = synthetic.take(in_style_of(request.site_styles, conditions.site_index(a.site)).nonzero()[:, 0])
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
