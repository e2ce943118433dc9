"""`fedpretrain probe RUN`: kNN and linear probe of a pretrained encoder at every site, on the run's or other images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from fedcore.algorithms.properties import share_of
from fedcore.config.recipe import read_recipe
from fedcore.config.shared_recipe import SharedRecipe
from fedcore.errors import InputError
from fedcore.messages.message import Empty, Weights, weights_of
from fedcore.messages.round import Round
from fedcore.messages.tensors import Tensors
from fedcore.models.base import Encoder
from fedcore.models.encoder_store import find_encoder, load_encoder
from fedcore.runs.checkpoint import Checkpoint
from fedcore.runs.communication import ANSWERS
from fedcore.runs.folder import RunFolder
from fedcore.server.begin import reopen
from fedcore.server.sites import Sites
from fedcore.tables import terminal, text_table
from fedcore.training.local_trainer import LocalTrainer
from fedcore.transport.base import Transport
from fedcore.transport.read_images import read_images
from fedcore.transport.simulation import agreed, simulate_task
from fedssl.evaluation.probe import SHARED
from fedssl.methods.base import Method
from fedssl.pretraining import PROBE, pretrain, task_of

USAGE = """usage: fedpretrain probe RUN [--data.manifest other.csv] [--KEY VALUE ...]

Measures kNN accuracy, a linear probe and collapse metrics of a pretrained encoder at every site that has test images,
against the site's own training images. A site sends scalars only."""

TRAINED = "training_images"
Table = dict[str, dict[str, float]]
"""Metrics by site."""
COLUMNS = {"knn": "kNN", "linear": "linear probe", "feature_std": "feature std", "effective_rank": "effective rank"}


def command(arguments: Sequence[str]) -> int:
    if not arguments or {"-h", "--help"} & {*arguments}:
        print(USAGE)
        return 0
    show(probe(Path(arguments[0]), arguments[1:]))
    return 0


def probe(path: Path, overrides: Sequence[str] = ()) -> Table:
    """Metrics by site of the encoder of a pretraining run; where sites have their own encoders, of those.

    Raises:
        InputError: There is no finished pretraining run, its encoder does not fit the images, or a site declined.
    """
    run, recipe = _finished(path, overrides)
    cohort = read_images(recipe["data"])
    agreement, task = agreed(cohort), task_of(recipe)
    module = task.module(agreement)
    local = LocalTrainer(module, share_of(task.algorithm, module), recipe["visit"])
    simulation = simulate_task(task, cohort, local, agreement, recipe["policy"], path / "sites", run.digest)
    sites = Sites.of(simulation, run.name, run.digest, record=path / ANSWERS)
    sites.counted = run.counted()
    return _table(sites, _weights(path, local, sites.training), recipe["seed"])


def probe_at(transport: Transport, words: Sequence[str]) -> None:
    """As `command`, of a run whose sites are reached by `transport`."""
    path = Path(words[0])
    run, recipe = _finished(path, words[1:])
    text = (path / "recipe.yaml").read_text(encoding="utf-8")
    sites = reopen(run, transport, SharedRecipe.of("pretrain", text).digest)
    task = task_of(recipe)
    module = task.module(sites.agreement)
    local = LocalTrainer(module, share_of(task.algorithm, module), recipe["visit"])
    if is_shared(module, local.share):
        load_encoder(find_encoder(path), module.encoder)
    else:
        state = Checkpoint.open(path / "state").restore(task.algorithm.start(local))
        local.load(weights_of(state))
    show(_table(sites, local.shared(), recipe["seed"]))


def _finished(path: Path, overrides: Sequence[str]) -> tuple[RunFolder, dict[str, Any]]:
    """A finished pretraining run, and what its recipe with the overrides builds."""
    run = RunFolder(path)
    if run.about().get("command") != "pretrain":
        raise InputError(f"probe takes a pretrain run, {path} holds {run.about().get('command', 'no run')}")
    run.require_own()
    run.finished()
    recipe = read_recipe(pretrain, "probe", [str(path / "recipe.yaml"), *overrides]).build()
    recipe["policy"].require_metrics("a probe")
    return run, recipe


def _table(sites: Sites, weights: Tensors, seed: int) -> Table:
    answers = sites.query_all(PROBE, Weights(weights), sites.training, Round(0, 1, seed), Empty, "probed")
    return {answer.site: answer.metrics | {TRAINED: float(answer.examples)} for answer in answers}


def is_shared(module: Method, share: tuple[str, ...]) -> bool:
    """Whether the whole encoder travels, so that the federation has one."""
    return all(f"encoder.{name}".startswith(share) for name in module.encoder.state_dict())


def _weights(path: Path, local: LocalTrainer, names: Sequence[str]) -> Tensors:
    """The run's encoder; of one that is no site's alone, what sites share of it, the rest being in their memories."""
    encoder = cast(Encoder, local.module.encoder)
    if is_shared(cast(Method, local.module), local.share):
        load_encoder(find_encoder(path), encoder)
        return local.shared()
    owners = sorted(folder.parent.name for folder in path.glob("sites/*/encoder"))
    if not owners:
        find_encoder(path)
    if missing := sorted({*names} - {*owners}):
        raise InputError(
            f"each site of {path} has its own encoder, but {missing[0]!r} has none; "
            f"sites that have one: {', '.join(owners)}"
        )
    load_encoder(path / "sites" / owners[0] / "encoder", encoder)
    return local.shared()


def pooled(table: Table, metric: str) -> float | None:
    """Mean over the sites, weighted by test images or, for collapse metrics, by training images.

    None where no site has the metric.
    """
    weight = TRAINED if metric.removeprefix(SHARED) in ("feature_std", "effective_rank") else "images"
    values = [(row[metric], row.get(weight, 1.0)) for row in table.values() if metric in row]
    total = sum(n for _, n in values)
    return sum(value * n for value, n in values) / total if total else None


def show(table: Table) -> None:
    rows = {site: [f"{row.get('images', 0):.0f}", *(_cell(row.get(name)) for name in COLUMNS)]
            for site, row in table.items()}  # fmt: skip
    images = sum(row.get("images", 0) for row in table.values())
    rows["all"] = [f"{images:.0f}", *(_cell(pooled(table, name)) for name in COLUMNS)]
    terminal().print(text_table("site", ("labelled test images", *COLUMNS.values()), rows, highlight="all"))


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
