"""`fedpretrain probe RUN`: how good a pretrained encoder is at every site, on the run's own or on other images."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from fedcore.algorithms.fedavg import FedAvg
from fedcore.algorithms.properties import share_of
from fedcore.config.recipe import read_recipe
from fedcore.errors import InputError, building
from fedcore.messages.message import Refusal, Weights
from fedcore.models.base import Encoder
from fedcore.models.encoder_store import find_encoder, load_encoder
from fedcore.runs.communication import ANSWERS
from fedcore.runs.folder import RunFolder
from fedcore.runs.progress import load
from fedcore.seeds import seeded
from fedcore.site.site import Round
from fedcore.tables import grid, terminal
from fedcore.training.local_trainer import LocalTrainer
from fedcore.transport.in_process import InProcess
from fedssl.evaluation.probe import SHARED, Probe
from fedssl.pretraining import has_own_encoder, pretrain

USAGE = """usage: fedpretrain probe RUN [--data.manifest other.csv] [--KEY VALUE ...]

kNN, linear probe and gauges of collapse of a pretrained encoder at every site that has test images, each
site against its own training images. Scalars alone leave a site."""

TRAINED = "training_images"
Table = dict[str, dict[str, float]]
"""Metrics by site."""
COLUMNS = {"knn": "kNN", "linear": "linear probe", "feature_std": "spread", "effective_rank": "effective rank"}


def command(arguments: Sequence[str]) -> int:
    if not arguments or {"-h", "--help"} & {*arguments}:
        print(USAGE)
        return 0
    show(probe(Path(arguments[0]), arguments[1:]))
    return 0


def probe(path: Path, overrides: Sequence[str] = ()) -> Table:
    """Metrics by site of the encoder of a pretraining run; where sites have one of their own, of that.

    Raises:
        InputError: There is no finished pretraining run, its encoder does not fit the images, or a site refused.
    """
    run = RunFolder(path)
    if run.about().get("command") != "pretrain":
        raise InputError(f"probe takes a pretrain run, {path} holds {run.about().get('command', 'no run')}")
    run.require_own()
    run.finished()
    asked = read_recipe(pretrain, "probe", [str(path / "recipe.yaml"), *overrides]).build()
    asked["policy"].require_metrics("a probe")
    cohort = load(asked["data"])
    with seeded(asked["seed"]), building("the method or its encoder"):
        module = asked["method"](asked["encoder"](cohort.spatial_dims, cohort.channels))
    local = LocalTrainer(module, share_of(asked["algorithm"] or FedAvg(), module), asked["visit"])
    sites = InProcess(cohort.split("train"), local, cohort.split("test"), asked["policy"], folder=path / "sites")
    sites.record = path / ANSWERS
    sites.memories = run.memories()
    _load(path, sites, module.encoder)
    return _ask(sites, dataclasses.replace(asked["probe"] or Probe(), linear=True), asked["seed"])


def _load(path: Path, sites: InProcess, encoder: Encoder) -> None:
    """The run's encoder; of one that is no site's alone, what sites share of it, the rest being in their memories."""
    if all(f"encoder.{name}".startswith(sites.local.share) for name in encoder.state_dict()):
        load_encoder(find_encoder(path), encoder)
        return
    owners = sorted(folder.parent.name for folder in path.glob("sites/*/encoder"))
    if not owners:
        find_encoder(path)
    if strange := [name for name in sites.names() if not has_own_encoder(sites.memories.get(name))]:
        raise InputError(
            f"each site of {path} has an encoder of its own, and {strange[0]!r} is none of them ({', '.join(owners)})"
        )
    load_encoder(path / "sites" / owners[0] / "encoder", encoder)


def _ask(sites: InProcess, visitor: Probe, seed: int) -> Table:
    down = Weights(sites.local.shared())
    answers = sites.ask(visitor, ((name, down) for name in sites.names()), Round(0, 1, seed))
    table: Table = {}
    for answer in answers:
        if isinstance(answer, Refusal):
            raise InputError(f"{answer.site} could not be probed: {answer.reason}") from answer.cause
        table[answer.site] = answer.metrics | {TRAINED: float(answer.examples)}
    return table


def pooled(table: Table, metric: str) -> float | None:
    """Mean over the sites, weighted by the images it is of: test images, of gauges of collapse training images.

    None where no site has the metric.
    """
    counted = TRAINED if metric.removeprefix(SHARED) in ("feature_std", "effective_rank") else "images"
    told = [(row[metric], row.get(counted, 1.0)) for row in table.values() if metric in row]
    mass = sum(n for _, n in told)
    return sum(value * n for value, n in told) / mass if mass else None


def show(table: Table) -> None:
    rows = {site: [f"{row.get('images', 0):.0f}", *(_cell(row.get(name)) for name in COLUMNS)]
            for site, row in table.items()}  # fmt: skip
    images = sum(row.get("images", 0) for row in table.values())
    rows["all"] = [f"{images:.0f}", *(_cell(pooled(table, name)) for name in COLUMNS)]
    terminal().print(grid("site", ("labelled test images", *COLUMNS.values()), rows, standing_out="all"))


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
