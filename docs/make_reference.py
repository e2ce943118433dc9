"""Writes docs/recipes.md from the recipes and the signatures they are checked against.

python docs/make_reference.py
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from fedcore.cli.main import STAGES
from fedcore.config.recipe import parser_of
from fedcore.config.recipe_files import command_of, purpose, shipped

Row = tuple[str, str, str]
"""Key, default and meaning of an option."""
VIEWS = "fedcore.augment.views.Views"
PAGE = Path(__file__).parent / "recipes.md"
CHOICES = {
    "Methods (`method`)": [
        "fedssl.methods.simclr.SimCLR", "fedssl.methods.moco.MoCo", "fedssl.methods.fcl.FCL",
        "fedssl.methods.fedx.FedX", "fedssl.methods.byol.BYOL",
        "fedssl.methods.simsiam.SimSiam", "fedssl.methods.vicreg.VICReg", "fedssl.methods.dino.DINO",
        "fedssl.methods.mae.MAE",
        "fedssl.methods.rotation.Rotation",
    ],
    "Views (`views` of methods, `augment` of classifiers and segmenters)": [VIEWS],
    "Encoders (`encoder`)": [
        "fedcore.models.resnet.ResNet", "fedcore.models.densenet.DenseNet", "fedcore.models.vit.ViT"],
    "Algorithms (`algorithm`)": [
        "fedcore.algorithms.fedavg.FedAvg", "fedcore.algorithms.local_only.LocalOnly",
        "fedcore.algorithms.scaffold.Scaffold",
        "fedcore.algorithms.fednova.FedNova", "fedcore.algorithms.fedopt.FedOpt", "fedcore.algorithms.fedbn.FedBN",
        "fedcore.algorithms.fedrep.FedRep",
        "fedcore.algorithms.ditto.Ditto", "fedcore.algorithms.incremental.Incremental",
        "fedssl.federation.fedema.FedEMA", "fedssl.federation.fedu.FedU",
        "fedcore.algorithms.quantised.Quantised", "fedgen.federated.feddiffuse.USplit",
        "fedgen.federated.feddiffuse.ULatDec",
        "fedgen.federated.feddiffuse.UDec", "fedgen.gan.gan.CriticsStay", "fedgen.gan.mdgan.MDGAN",
    ],
    "Local callbacks (`visit.callbacks`)": [
        "fedcore.algorithms.fedprox.ProximalTerm", "fedcore.training.lr_schedule.Cosine",
        "fedssl.federation.similarity.RepresentationChange",
        "fedgen.federated.fedvss.VirtualSamples", "fedtune.classification.moon.ModelContrast",
    ],
    "Server optimizers (`algorithm.init_args.rule` of FedOpt)": [
        "fedcore.algorithms.fedopt.Momentum", "fedcore.algorithms.fedopt.Adagrad", "fedcore.algorithms.fedopt.Adam",
        "fedcore.algorithms.fedopt.Yogi",
    ],
    "Aggregators (`algorithm.init_args.aggregator`)": [
        "fedcore.aggregation.mean.Mean", "fedcore.aggregation.robust.TrimmedMean", "fedcore.aggregation.robust.Median",
        "fedssl.federation.ldawa.LDAWA",
    ],
    "Exchanges (`exchange`)": ["fedssl.bank.vectors.ShareVectors", "fedssl.bank.statistics.ShareStatistics"],
    "Scaling (`data.scaling`)": [
        "fedcore.data.preprocess.scaling.Percentiles", "fedcore.data.preprocess.scaling.Window",
        "fedcore.data.preprocess.scaling.FullRange",
    ],
    "Partitions (`data.partition`)": [
        "fedcore.data.partition.ByColumn", "fedcore.data.partition.Dirichlet", "fedcore.data.partition.Quantity",
        "fedcore.data.partition.Pooled",
    ],
    "Networks of generators (`network`, `painter`, `critic`)": [
        "fedgen.diffusion.unet.UNet", "fedgen.latent.autoencoder.Autoencoder",
        "fedgen.gan.generator_network.Painter", "fedgen.gan.discriminator.Critic",
    ],
    "What GANs learn by (`objective`)": ["fedgen.gan.losses.Hinge", "fedgen.gan.losses.Wasserstein"],
    "Generators (`generator`)": [
        "fedgen.diffusion.diffusion.Diffusion", "fedgen.diffusion.paired.PairedDiffusion", "fedgen.latent.vae.VAE",
        "fedgen.latent.latent_diffusion.LatentDiffusion", "fedgen.gan.gan.GAN",
    ],
    "Classifiers (`classifier`)": ["fedtune.classification.classifier.Classifier"],
    "Segmenters (`segmenter`)": ["fedtune.segmentation.segmenter.Segmenter"],
    "Networks of segmenters (`network`)": [
        "fedtune.segmentation.networks.UShaped", "fedtune.segmentation.networks.SegResNet",
        "fedtune.segmentation.networks.DynUNet",
        "fedtune.segmentation.networks.SwinUNETR",
    ],
}  # fmt: skip


FROM_DATA = {
    "encoder",
    "classes",
    "network",
    "canvas",
    "known",
    "spatial_dims",
    "channels",
    "answers",
    "structures",
    "space",
}
"""What the stage hands to a class, and a recipe does not say."""


def main() -> None:
    PAGE.write_text("\n".join(page()) + "\n", encoding="utf-8")


def page() -> Iterator[str]:
    yield "# Recipe reference\n"
    yield "Made by `make docs` from the recipes and signatures; do not edit.\n"
    yield "A recipe is YAML, checked against the signature of a stage. Every value can be overridden:"
    yield "`--rounds.count 50`, `--method.init_args.temperature 0.1`. Classes are named by import path, with"
    yield "`class_path` and `init_args`, as Lightning's CLI does; your own class needs no registration, but"
    yield "`--trust my_package` where a file names it.\n"
    yield "## Recipes that come with the kit\n\n| recipe | command | purpose |\n|---|---|---|"
    yield from (f"| `{name}` | {command_of(path)} | {purpose(path)} |" for name, path in shipped().items())
    stages = {name: list(_rows(parser_of(load(path.replace(":", ".")), name))) for name, (path, _) in STAGES.items()}
    shared = [row for row in stages["pretrain"] if all(row in rows for rows in stages.values())]
    yield "\n## Options of every training command\n"
    yield from table(shared)
    for name, (_, told) in STAGES.items():
        yield f"\n## `fedpretrain {name}`: {told}\n\nAnd the options of every training command.\n"
        yield from table([row for row in stages[name] if row not in shared])
    yield "\n## Classes to choose from\n"
    for title, classes in CHOICES.items():
        yield f"\n### {title}"
        for path in classes:
            yield from of_class(path)


def of_class(path: str) -> Iterator[str]:
    kind = load(path)
    yield f"\n#### `{path}`\n\n{(kind.__doc__ or '').strip().splitlines()[0]}\n"
    yield from table(_without_views(_of_class(kind, path)))


def table(rows: Sequence[Row]) -> Iterator[str]:
    if rows:
        yield "| key | default | |\n|---|---|---|"
        yield from (f"| `{key}` | {default} | {told} |" for key, default, told in rows)


def _of_class(kind: Any, path: str) -> list[Row]:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(
        kind, as_positional=False, skip=FROM_DATA if path.startswith(("fedgen", "fedssl", "fedtune")) else set()
    )
    return list(_rows(parser))


def _without_views(rows: Sequence[Row]) -> list[Row]:
    """What is told once under Views is left out, but for defaults that are others."""
    known = _of_views()
    kept: list[Row] = []
    for key, default, told in rows:
        group, _, name = key.partition(".")
        if name not in known:
            kept.append((key, default, told))
            continue
        pointer = (f"{group}.*", "", f"Of `{VIEWS}`, under Views; defaults that differ follow.")
        kept += [pointer] if pointer not in kept else []
        kept += [(key, default, "")] if (default, told) != known[name] else []
    return kept


@cache
def _of_views() -> dict[str, tuple[str, str]]:
    return {key: (default, told) for key, default, told in _of_class(load(VIEWS), VIEWS)}


def _rows(parser: ArgumentParser) -> Iterator[Row]:
    for action in parser._actions:
        needed = bool(action.required)
        if action.dest in ("help", "print_config", "config") or action.dest.endswith(".help"):
            continue
        if action.help is None and not needed:
            continue
        told = " ".join(str(action.help or "").split())
        if action.option_strings and action.default != "==SUPPRESS==":
            yield action.dest, "required" if needed else _shown(action.default), told.replace("|", "/")


def _shown(default: Any) -> str:
    """A default as YAML says it; of a class its name."""
    if default is None or isinstance(default, bool):
        return {None: "null", True: "true", False: "false"}[default]
    if isinstance(default, dict):
        return f"`{default['class_path']}`" if "class_path" in default else "its own"
    return str(list(default) if isinstance(default, tuple) else getattr(default, "name", default))


def load(path: str) -> Callable[..., Any]:
    module, name = path.rsplit(".", 1)
    loaded: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return loaded


if __name__ == "__main__":
    main()
