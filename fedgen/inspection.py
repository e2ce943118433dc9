"""`fedpretrain generate audit`: every site holds a drawn set against its own images; what they found together."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from fedcore.cli import stage_of
from fedcore.data.images import Cohort
from fedcore.data.synthetic import AUDIT
from fedcore.errors import InputError
from fedcore.files import write_json
from fedcore.ledger import ANSWERS
from fedcore.local import LocalTrainer
from fedcore.message import Contribution, Refusal, Weights
from fedcore.progress import load
from fedcore.recipe import read_recipe
from fedcore.run import RunFolder
from fedcore.site import Round
from fedcore.store import TENSORS, build_encoder, find_encoder
from fedcore.transport import InProcess
from fedcore.visit import Visit
from fedgen.audit import BATCH, Audit, Finding, Shown, imitating
from fedgen.diversity import likeness
from fedgen.drawn import DrawnSet
from fedgen.gate import Gate
from fedgen.generator import Known
from fedgen.moments import Moments, frechet, pooled

STAGE = {"generate": "generate train", "finetune": "finetune"}
"""What made a run that sets are drawn from."""
Figures = dict[str, float | None]


@dataclass(frozen=True)
class Inspection:
    """What `audit.json` holds. `set` is the digest of the whole set, `images` how many were looked at."""

    set: str
    images: int
    left_out: list[int]
    copies: dict[str, list[str]]
    """Images that are too near to a trained one, and the sites that say so."""
    sites: dict[str, dict[str, float]]
    quality: dict[str, Figures]
    """Of all images, by class and by site: Frechet distances, and what held-out images have."""
    likeness: float | None
    encoder: str | None
    """SHA-256 of its weights."""
    objections: list[str]
    asked: dict[str, Any] = field(default_factory=dict)
    """What the audit was asked with, to ask again."""

    @property
    def passes(self) -> bool:
        return not self.objections

    def told(self) -> dict[str, Any]:
        """As JSON holds it, without the paths it was asked with."""
        found = dataclasses.asdict(self) | {"passes": self.passes}
        del found["asked"]
        return found


def inspect(
    run: Path, folder: Path, encoder: Path | None = None, overrides: Sequence[str] = (),
    left_out: Collection[int] = (), gate: Gate = Gate(),
) -> Inspection:  # fmt: skip
    """Asks every site of `run` about the set in `folder`, writes `audit.json` there and returns it.

    The run's folder has it too, for its page, as the last audit of a set of this run.

    Args:
        run: The finished run of `generate train` or `finetune`, whose images the set is held against.
        folder: The set.
        encoder: A pretraining run or an encoder's folder, for features; null: pixels alone.
        overrides: Of the run's recipe, such as `--data.manifest` where the images have moved.
        left_out: Numbers of images that are not to be released.
        gate: What must hold.

    Raises:
        InputError: There is no such run or set, the encoder does not fit, or a site refused.
    """
    drawn = DrawnSet.open(folder)
    looked = drawn.without(left_out)
    asked = _recipe(run, overrides)
    asked["policy"].require_metrics("an audit")
    cohort = load(asked["data"])
    known = Known(cohort.classes, tuple(cohort.split("train")))
    eyes = _Eyes(encoder, cohort)
    shown, labels = _show(looked, known, eyes, asked["visit"])
    digest = drawn.digest()
    answers = _ask(cohort, eyes, shown, Audit(known, digest=digest), asked, run)
    suspects = _suspects(answers, looked)
    sites = {a.site: a.metrics for a in answers}
    found = Inspection(
        digest, len(looked.images), sorted(left_out), suspects, sites, _quality(answers, shown, labels, known),
        likeness(shown.images, labels), eyes.digest, gate.objections(sites, len(looked.images), len(suspects)),
        {"run": str(run), "encoder": str(encoder) if encoder else None, "overrides": list(overrides)},
    )  # fmt: skip
    write_json(folder / AUDIT, found.told() | {"asked": found.asked})
    write_json(run / AUDIT, found.told() | {"name": folder.resolve().name})
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
    stage = stage_of(STAGE[about["command"]])
    return read_recipe(stage, "generate audit", [str(run / "recipe.yaml"), *overrides]).build()


def _show(looked: DrawnSet, known: Known, eyes: _Eyes, visit: Visit) -> tuple[Shown, Tensor]:
    """What sites are shown, and the classes the images were asked to have."""
    images = looked.pixels()
    with torch.inference_mode():
        eyes.encoder.to(visit.device).eval()
        parts = [eyes.encoder(part.float().to(visit.device)).float().cpu() for part in images.split(BATCH)]
        eyes.encoder.cpu()
    imitates = torch.tensor([known.site(i.imitates) for i in looked.images])
    labels = torch.tensor([known.label(i.label) for i in looked.images])
    numbers = torch.tensor([i.number for i in looked.images])
    return Shown(images.float(), torch.cat(parts), imitates, numbers, Weights(_weights(eyes))), labels


def _weights(eyes: _Eyes) -> dict[str, Tensor]:
    return {k: t.detach().clone() for k, t in eyes.state_dict().items()}


def _ask(
    cohort: Cohort, eyes: _Eyes, shown: Shown, audit: Audit, asked: dict[str, Any], run: Path
) -> list[Contribution[Finding]]:
    images, held = cohort.split("train"), _held_out(cohort)
    sites = InProcess(images, LocalTrainer(eyes, (), asked["visit"]), held, asked["policy"], folder=run / "sites")
    sites.record = run / ANSWERS
    given = []
    for answer in sites.ask(audit, ((name, shown) for name in sites.names()), Round(0, 1, asked["seed"])):
        if isinstance(answer, Refusal):
            raise InputError(f"{answer.site} could not audit the set: {answer.reason}") from answer.cause
        given.append(answer)
    return given


def _suspects(answers: Sequence[Contribution[Finding]], looked: DrawnSet) -> dict[str, list[str]]:
    """Names of images that any site takes for a copy, with those sites."""
    said = {a.site: a.message.copies.any(0) for a in answers}
    found = {image.path.name: [s for s in said if said[s][at]] for at, image in enumerate(looked.images)}
    return {name: sites for name, sites in found.items() if sites}


def _held_out(cohort: Cohort) -> dict[str, Any]:
    """All that was not trained on."""
    parts = {site: images.take((images.splits != "train").nonzero()[0]) for site, images in cohort.sites.items()}
    return {site: images for site, images in parts.items() if len(images)}


def _quality(
    answers: Sequence[Contribution[Finding]], shown: Shown, labels: Tensor, known: Known
) -> dict[str, Figures]:
    """Frechet distances to trained images, of the drawn and of the held-out ones."""
    if not shown.features.shape[1]:
        return {}
    trained, held = (pooled(getattr(a.message, name) for a in answers) for name in ("trained", "held"))
    rows = {"all": (trained.together(), held.together(), shown.features)}
    for at, name in enumerate(known.classes):
        rows[f"class {name}"] = (trained.group(at), held.group(at), shown.features[labels == at])
    for a in answers:
        own = shown.features[imitating(shown.imitates, known.site(a.site))]
        rows[f"site {a.site}"] = (a.message.trained.together(), a.message.held.together(), own)
    return {name: {"fid": _distance(real, Moments.of(own)), "held_out_fid": _distance(real, other)}
            for name, (real, other, own) in rows.items()}  # fmt: skip


def _distance(a: Moments, b: Moments) -> float | None:
    """None where a covariance of so few images has no full rank, and the distance says little."""
    return frechet(a, b) if min(a.count, b.count) > a.total.shape[-1] else None
