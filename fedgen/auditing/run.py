"""The audit of a synthetic set: every site compares it with its own images; their answers together make the record."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule

from fedcore.config.recipe import read_recipe
from fedcore.config.shared_recipe import SharedRecipe
from fedcore.config.stages import stage_of
from fedcore.data.synthetic.audit_record import AUDIT, AuditRecord, with_digest
from fedcore.errors import InputError
from fedcore.files.lock import locked
from fedcore.files.writing import require_no_links, write_json
from fedcore.messages.agreement import Agreement
from fedcore.messages.answer import Contribution
from fedcore.messages.message import Weights
from fedcore.messages.round import Round
from fedcore.models.encoder_store import TENSORS, find_encoder
from fedcore.runs.communication import ANSWERS
from fedcore.runs.folder import RunFolder
from fedcore.server.begin import reopen
from fedcore.server.sites import Sites
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.visit import Visit
from fedcore.transport.base import Transport
from fedcore.transport.read_images import read_images
from fedcore.transport.simulation import agreed, simulate
from fedgen.auditing.allowance import AUDIT_SET, CountedAudit
from fedgen.auditing.audit import BATCH, Audit, AuditAnswer, AuditRequest
from fedgen.auditing.encoder import features_of, misfit, read_encoder
from fedgen.auditing.record import record_of
from fedgen.generator import Conditions
from fedgen.synthetic.provenance import require_origin, require_training_images
from fedgen.synthetic.synthetic_set import SyntheticSet

STAGE = {"generate": "generate train", "finetune": "finetune"}
"""The command of a run that synthetic sets can come from, by the name in its run.json."""


def audit(
    run: Path, folder: Path, encoder: Path | None = None, overrides: Sequence[str] = (),
    left_out: Collection[int] = (), transport: Transport | None = None,
) -> AuditRecord:  # fmt: skip
    """Lets every site of `run` audit the set in `folder`, writes `audit.json` there and returns the record.

    The run's folder keeps it too, for its page: of the last audit of a set of this run.

    Args:
        run: The finished run of `generate train` or `finetune` that the set comes from; the set is compared with its
            images.
        folder: The set.
        encoder: A pretraining run or an encoder's folder, for features; null: pixels alone.
        overrides: Of the run's recipe, such as `--data.manifest` where the images have moved.
        left_out: Numbers of images that will not be released.
        transport: The sites, on machines of their own, of a run of `generate train`; None: those of a simulation.

    Raises:
        InputError: There is no such run or set, the set is of another run or the images are others, the encoder does
            not fit, or a site declined.
    """
    with ExitStack() as locks:
        for place in (run, folder):
            if place.is_dir():  # else the error below names what is missing
                require_no_links(place)
                locks.enter_context(locked(place))
        whole = SyntheticSet.open(folder)
        recipe = _recipe(run, overrides, apart=transport is not None)
        recipe["policy"].require_metrics("an audit")
        require_origin(run, folder, whole.settings)
        sites = _simulated(run, recipe) if transport is None else _apart(run, transport)
        agreement = sites.agreement
        conditions = Conditions(agreement.classes, agreement.sites)
        request = _request(whole, left_out, agreement, encoder, recipe["visit"])
        answers = _answers(sites, request, conditions, recipe["seed"])
        options = {"run": str(run), "encoder": str(encoder) if encoder else None, "overrides": list(overrides)}
        record = record_of(whole, left_out, request, answers, conditions, _digest(encoder), options)
        write_json(folder / AUDIT, record.as_dict() | {"options": record.options})
        write_json(run / AUDIT, with_digest(record.as_dict() | {"name": folder.resolve().name}))
        return record


def are_apart(run: Path) -> bool:
    """Whether the sites of a run are on machines of their own."""
    return bool(RunFolder(run).about().get("facts"))


def _recipe(run: Path, overrides: Sequence[str], apart: bool) -> dict[str, Any]:
    """What the recipe of the run, with the overrides, builds."""
    about = RunFolder(run).about()
    if str(about.get("command")) not in STAGE or about.get("status") != "finished":
        found = f"{about.get('command', 'no')} run that is {about.get('status', 'missing')}"
        raise InputError(f"an audit takes a finished run of generate train or finetune, {run} holds a {found}")
    RunFolder(run).finished()
    if apart and about["command"] != "generate":
        raise InputError(
            f"at a deployment, an audit takes a run of generate train; {run} holds a {about['command']} run, whose "
            "inverted images only a simulation can audit: omit --at"
        )
    if not apart and are_apart(run):
        raise InputError(f"the sites of {run} are on machines of their own; name their deployment with --at")
    stage = stage_of(STAGE[about["command"]])
    return read_recipe(stage, "generate audit", [str(run / "recipe.yaml"), *overrides]).build()


def _simulated(run: Path, recipe: dict[str, Any]) -> Sites:
    """Those of a run whose images are all here."""
    cohort = read_images(recipe["data"])
    require_training_images(run, cohort)
    images = cohort.split("train")
    agreement = replace(agreed(cohort), sites=tuple(images))
    words = {AUDIT_SET: CountedAudit(Audit(Conditions(agreement.classes, agreement.sites)))}
    nothing = LocalTrainer(LightningModule(), (), recipe["visit"])
    name, digest = RunFolder(run).name, RunFolder(run).digest
    simulation = simulate(
        images, nothing, words, test=cohort.held_out(), policy=recipe["policy"], folder=run / "sites", recipe=digest
    )
    return replace(Sites.of(simulation, name, digest, record=run / ANSWERS), agreement=agreement)


def _apart(run: Path, transport: Transport) -> Sites:
    """Those of a deployment, which compare their images with what they said of them when the run began."""
    text = (run / "recipe.yaml").read_text(encoding="utf-8")
    return reopen(RunFolder(run), transport, SharedRecipe.of("generate train", text).digest)


def _request(
    whole: SyntheticSet, left_out: Collection[int], agreement: Agreement, path: Path | None, visit: Visit
) -> AuditRequest:
    audited = whole.without(left_out)
    description, encoder = read_encoder(path)
    if wrong := misfit(encoder, agreement.spatial_dims, agreement.channels):
        raise InputError(f"the encoder in {path} does not fit the images: {wrong}")
    conditions, images = Conditions(agreement.classes, agreement.sites), audited.pixels()
    site_styles = torch.tensor([conditions.site_index(i.site_style) for i in audited.images])
    labels = torch.tensor([conditions.class_index(i.label) for i in audited.images])
    numbers = torch.tensor([i.number for i in audited.images])
    return AuditRequest(
        images.float(), features_of(encoder, images, visit.device, BATCH), site_styles, labels, numbers,
        description, Weights({k: t.detach() for k, t in encoder.state_dict().items()}), whole.digest(),
        whole.settings["generator"],
    )  # fmt: skip


def _digest(encoder: Path | None) -> str | None:
    """SHA-256 of an encoder's weights."""
    return hashlib.sha256((find_encoder(encoder) / TENSORS).read_bytes()).hexdigest() if encoder else None


def _answers(sites: Sites, request: AuditRequest, conditions: Conditions, seed: int) -> list[Contribution[AuditAnswer]]:
    """Of every site that trained."""
    answers = sites.query_all(AUDIT_SET, request, sites.training, Round(0, 1, seed), AuditAnswer, "audited")
    images, width = request.features.shape
    rows, groups = (2 if width else 1), len(conditions.classes) + 1
    for a in answers:
        found = [a.message.copies.shape, a.message.training.total.shape, a.message.held_out.total.shape]
        if [*map(tuple, found)] != [(rows, images), (groups, width), (groups, width)]:
            raise InputError(
                f"{a.site} answered with figures of other images, classes or features; install the same version on "
                "both sides"
            )
    return answers
