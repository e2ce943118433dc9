"""`fedpretrain generate audit`: every site holds a drawn set against its own images; what they found together."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import fmean
from typing import Any, cast

import torch
from jaxtyping import Float
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from fedcore.cli.main import stage_of
from fedcore.config.recipe import read_recipe
from fedcore.data.cohort import Cohort
from fedcore.data.synthetic.audit_record import AUDIT, AuditRecord, Figures, with_digest
from fedcore.errors import InputError
from fedcore.files.lock import locked
from fedcore.files.writing import require_no_links, write_json
from fedcore.messages.message import Contribution, Weights
from fedcore.messages.round import Round
from fedcore.models.encoder_store import TENSORS, build_encoder, find_encoder
from fedcore.runs.communication import ANSWERS
from fedcore.runs.folder import RunFolder
from fedcore.runs.progress import load
from fedcore.server.sites import Sites
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.visit import Visit
from fedcore.transport.simulation import simulate
from fedgen.auditing.allowance import Allowance
from fedgen.auditing.audit import BATCH, Audit, Finding, Shown, imitating
from fedgen.auditing.diversity import emptiness, likeness
from fedgen.auditing.moments import Moments, frechet, pooled
from fedgen.auditing.quality import Sample, drawings
from fedgen.generator import Conditions
from fedgen.synthetic.provenance import require_origin
from fedgen.synthetic.synthetic_set import SyntheticImage, SyntheticSet

STAGE = {"generate": "generate train", "finetune": "finetune"}
"""What made a run that sets are drawn from."""
AUDIT_SET = "audit"
"""The word by which sites are asked about a set."""
NONE = "not given"
"""What the group of images without a class, or without a site to imitate, is called."""


def inspect(
    run: Path, folder: Path, encoder: Path | None = None, overrides: Sequence[str] = (), left_out: Collection[int] = ()
) -> AuditRecord:
    """Asks every site of `run` about the set in `folder`, writes `audit.json` there and returns it.

    The run's folder has it too, for its page, as the last audit of a set of this run.

    Args:
        run: The finished run of `generate train` or `finetune` that drew the set, whose images it is held against.
        folder: The set.
        encoder: A pretraining run or an encoder's folder, for features; null: pixels alone.
        overrides: Of the run's recipe, such as `--data.manifest` where the images have moved.
        left_out: Numbers of images that are not to be released.

    Raises:
        InputError: There is no such run or set, the set is of another run or the images are others, the encoder does
            not fit, or a site refused.
    """
    with ExitStack() as held:
        for place in (run, folder):
            if place.is_dir():  # else it is told below what is missing
                require_no_links(place)
                held.enter_context(locked(place))
        return _inspect(run, folder, encoder, overrides, left_out)


def _inspect(
    run: Path, folder: Path, encoder: Path | None, overrides: Sequence[str], left_out: Collection[int]
) -> AuditRecord:
    drawn = SyntheticSet.open(folder)
    looked = drawn.without(left_out)
    asked = _recipe(run, overrides)
    asked["policy"].require_metrics("an audit")
    cohort = load(asked["data"])
    require_origin(run, folder, drawn.settings, cohort)
    known = Conditions(cohort.classes, tuple(cohort.split("train")))
    eyes = _Eyes(encoder, cohort)
    shown = _show(looked, known, eyes, asked["visit"])
    digest, generator = drawn.digest(), drawn.settings["generator"]
    answers = _ask(cohort, eyes, shown, Allowance(Audit(known, digest=digest), generator), asked, run)
    copies = _suspects(answers, looked)
    found = AuditRecord(
        set=digest, generator=generator, data=drawn.settings["data"], images=len(looked.images),
        left_out=sorted(left_out), copies=copies, groups=_groups(drawn, copies, left_out),
        missing_classes=_lacking(looked),
        sites={a.site: a.metrics for a in answers}, of_set=_own(shown), quality=_quality(answers, shown, known),
        encoder=eyes.digest, label_fraction=drawn.settings.get("label_fraction"),
        options={"run": str(run), "encoder": str(encoder) if encoder else None, "overrides": list(overrides)},
    )  # fmt: skip
    write_json(folder / AUDIT, found.as_dict() | {"options": found.options})
    write_json(run / AUDIT, with_digest(found.as_dict() | {"name": folder.resolve().name}))
    return found


class _Eyes(LightningModule):
    """What sites look with: an encoder, or nothing, which makes no features."""

    def __init__(self, path: Path | None, cohort: Cohort):
        super().__init__()
        self.encoder: nn.Module = build_encoder(find_encoder(path)) if path else _Blind()
        self.digest = hashlib.sha256((find_encoder(path) / TENSORS).read_bytes()).hexdigest() if path else None
        config = getattr(self.encoder, "config", {})
        wanted = {"spatial_dims": cohort.spatial_dims, "channels": cohort.channels}
        if path and (wrong := [f"{k} {config[k]}, not {v}" for k, v in wanted.items() if config.get(k, v) != v]):
            raise InputError(f"the encoder in {path} does not fit the images: it takes {' and '.join(wrong)}")


class _Blind(nn.Module):
    def forward(self, images: Float[Tensor, "n c *space"]) -> Float[Tensor, "n 0"]:
        return images.new_zeros(len(images), 0)


def _recipe(run: Path, overrides: Sequence[str]) -> dict[str, Any]:
    about = RunFolder(run).about()
    if str(about.get("command")) not in STAGE or about.get("status") != "finished":
        found = f"{about.get('command', 'no')} run that is {about.get('status', 'missing')}"
        raise InputError(f"an audit takes a finished run of generate train or finetune, {run} holds a {found}")
    RunFolder(run).finished()
    stage = stage_of(STAGE[about["command"]])
    return read_recipe(stage, "generate audit", [str(run / "recipe.yaml"), *overrides]).build()


def _show(looked: SyntheticSet, known: Conditions, eyes: _Eyes, visit: Visit) -> Shown:
    images = looked.pixels()
    with torch.inference_mode():
        eyes.encoder.to(visit.device).eval()
        parts = [eyes.encoder(part.float().to(visit.device)).float().cpu() for part in images.split(BATCH)]
        eyes.encoder.cpu()
    imitates = torch.tensor([known.site_index(i.site_style) for i in looked.images])
    labels = torch.tensor([known.class_index(i.label) for i in looked.images])
    numbers = torch.tensor([i.number for i in looked.images])
    return Shown(images.float(), torch.cat(parts), imitates, labels, numbers, Weights(_weights(eyes)))


def _weights(eyes: _Eyes) -> dict[str, Tensor]:
    return {k: t.detach().clone() for k, t in eyes.state_dict().items()}


def _ask(
    cohort: Cohort, eyes: _Eyes, shown: Shown, audit: Allowance, asked: dict[str, Any], run: Path
) -> list[Contribution[Finding]]:
    images, held = cohort.split("train"), _held_out(cohort)
    local, folder = LocalTrainer(eyes, (), asked["visit"]), RunFolder(run)
    policy = asked["policy"].for_audit()
    simulation = simulate(images, local, {AUDIT_SET: audit}, test=held, policy=policy, folder=run / "sites")
    sites = Sites.of(simulation, folder.name, record=run / ANSWERS)
    given = sites.query_all(AUDIT_SET, shown, list(images), Round(0, 1, asked["seed"]), "asked about the set")
    return cast(list[Contribution[Finding]], given)


def _suspects(answers: Sequence[Contribution[Finding]], looked: SyntheticSet) -> dict[str, list[str]]:
    """Names of images that any site takes for a copy, with those sites."""
    said = {a.site: a.message.copies.any(0) for a in answers}
    found = {image.path.name: [s for s in said if said[s][at]] for at, image in enumerate(looked.images)}
    return {name: sites for name, sites in found.items() if sites}


def _held_out(cohort: Cohort) -> dict[str, Any]:
    """All that was not trained on."""
    parts = {site: images.take((images.splits != "train").nonzero()[0]) for site, images in cohort.sites.items()}
    return {site: images for site, images in parts.items() if len(images)}


def _groups(drawn: SyntheticSet, copies: Collection[str], left_out: Collection[int]) -> dict[str, dict[str, int]]:
    """Numbers of images, of copies among them, and of images that were left out before."""
    kinds = {
        "images": [image for image in drawn.images if image.number not in left_out],
        "copies": [image for image in drawn.images if image.number not in left_out and image.path.name in copies],
        "left_out": [image for image in drawn.images if image.number in left_out],
    }
    counts = {kind: Counter(name for image in images for name in _names(image)) for kind, images in kinds.items()}
    names = sorted({name for of in counts.values() for name in of})
    return {name: {kind: of[name] for kind, of in counts.items()} for name in names}


def _names(image: SyntheticImage) -> tuple[str, str, str]:
    """Of the groups that an image is of."""
    return "all", f"class {image.label or NONE}", f"site {image.site_style or NONE}"


def _lacking(looked: SyntheticSet) -> list[str]:
    return sorted({name for name in looked.settings.get("classes", ()) if name} - {i.label for i in looked.images})


def _own(shown: Shown) -> dict[str, float]:
    """What the set says of itself, without a real image."""
    alike = likeness(shown.images, shown.labels)
    return emptiness(shown.images) | ({} if alike is None else {"likeness": alike})


def _quality(answers: Sequence[Contribution[Finding]], shown: Shown, known: Conditions) -> dict[str, Figures]:
    """Frechet distances to trained images, of the drawn and of the held-out ones."""
    if not shown.features.shape[1]:
        return {}
    drawn = Sample(shown.features, shown.labels)
    trained, held = (pooled(getattr(a.message, name) for a in answers) for name in ("trained", "held"))
    rows = {"all": (trained.together(), held.together(), drawn)}
    for at, name in enumerate(known.classes):
        rows[f"class {name}"] = (trained.group(at), held.group(at), drawn.of((shown.labels == at).nonzero()[:, 0]))
    for a in answers:
        own = imitating(shown.imitates, known.site_index(a.site)).nonzero()[:, 0]
        rows[f"site {a.site}"] = (a.message.trained.together(), a.message.held.together(), drawn.of(own))
    return {name: _distances(*row) for name, row in rows.items()}


def _distances(trained: Moments, held: Moments, drawn: Sample) -> Figures:
    """Of as many drawn images as were held out, the mean of ten drawings, since the distance falls with their number.
    Sites send sums of the held-out ones, which cannot be made fewer: where these are more, they have no figure.
    """
    if not 0 < held.count <= len(drawn):
        return {"fid": _distance(trained, Moments.of(drawn.features)), "held_out_fid": None}
    each = [_distance(trained, Moments.of(part.features)) for part in drawings(drawn, int(held.count))]
    whole = [one for one in each if one is not None]
    return {"fid": fmean(whole) if whole else None, "held_out_fid": _distance(trained, held)}


def _distance(a: Moments, b: Moments) -> float | None:
    """None where a covariance of so few images has no full rank, and the distance says little."""
    return frechet(a, b) if min(a.count, b.count) > a.total.shape[-1] else None
