"""Writes docs/recipes.md from the recipes and the signatures they are checked against.

python docs/make_reference.py
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from fedcore.cli import STAGES
from fedcore.recipe import parser_of
from fedcore.recipes import purpose, shipped

PAGE = Path(__file__).parent / "recipes.md"
CHOICES = {
    "Methods (`method`)": [
        "fedssl.simclr.SimCLR", "fedssl.moco.MoCo", "fedssl.fcl.FCL", "fedssl.fedx.FedX", "fedssl.byol.BYOL",
        "fedssl.simsiam.SimSiam", "fedssl.vicreg.VICReg", "fedssl.dino.DINO", "fedssl.mae.MAE",
        "fedssl.rotation.Rotation",
    ],
    "Encoders (`encoder`)": ["fedcore.encoders.ResNet", "fedcore.encoders.DenseNet", "fedcore.encoders.ViT"],
    "Algorithms (`algorithm`)": [
        "fedcore.algorithm.FedAvg", "fedcore.localonly.LocalOnly", "fedcore.scaffold.Scaffold",
        "fedcore.fednova.FedNova", "fedcore.fedopt.FedOpt", "fedcore.fedbn.FedBN", "fedcore.fedrep.FedRep",
        "fedcore.ditto.Ditto", "fedcore.incremental.Incremental", "fedssl.fedema.FedEMA", "fedssl.fedu.FedU",
        "fedcore.quantised.Quantised", "fedgen.feddiffuse.USplit", "fedgen.feddiffuse.ULatDec",
        "fedgen.feddiffuse.UDec", "fedgen.gan.CriticsStay", "fedgen.mdgan.MDGAN",
    ],
    "Guides (`algorithm.init_args.guides`)": [
        "fedcore.fedprox.Spring", "fedcore.schedule.Cosine", "fedssl.similarity.RepresentationChange",
        "fedgen.virtual.VirtualSamples", "fedtune.moon.ModelContrast",
    ],
    "Server optimizers (`algorithm.init_args.rule` of FedOpt)": [
        "fedcore.fedopt.Momentum", "fedcore.fedopt.Adagrad", "fedcore.fedopt.Adam", "fedcore.fedopt.Yogi",
    ],
    "Aggregators (`algorithm.init_args.aggregator`)": [
        "fedcore.aggregate.Mean", "fedcore.aggregate.TrimmedMean", "fedcore.aggregate.Median", "fedssl.ldawa.LDAWA",
    ],
    "Exchanges (`exchange`)": ["fedssl.vectors.ShareVectors", "fedssl.statistics.ShareStatistics"],
    "Scaling (`data.scaling`)": [
        "fedcore.data.scaling.Percentiles", "fedcore.data.scaling.Window", "fedcore.data.scaling.FullRange",
    ],
    "Partitions (`data.partition`)": [
        "fedcore.data.partition.ByColumn", "fedcore.data.partition.Dirichlet", "fedcore.data.partition.Quantity",
        "fedcore.data.partition.Pooled",
    ],
    "Networks of generators (`network`, `painter`, `critic`)": [
        "fedgen.unet.UNet", "fedgen.autoencoder.Autoencoder", "fedgen.painter.Painter", "fedgen.critic.Critic",
    ],
    "What GANs learn by (`objective`)": ["fedgen.adversarial.Hinge", "fedgen.adversarial.Wasserstein"],
    "Generators (`generator`)": [
        "fedgen.diffusion.Diffusion", "fedgen.paired.PairedDiffusion", "fedgen.vae.VAE",
        "fedgen.latent.LatentDiffusion", "fedgen.gan.GAN",
    ],
    "Classifiers (`classifier`)": ["fedtune.classifier.Classifier"],
    "Segmenters (`segmenter`)": ["fedtune.segmenter.Segmenter"],
    "Networks of segmenters (`network`)": [
        "fedtune.networks.UShaped", "fedtune.networks.SegResNet", "fedtune.networks.DynUNet",
        "fedtune.networks.SwinUNETR",
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
    yield "## Recipes that come with the kit\n\n| recipe | purpose |\n|---|---|"
    yield from (f"| `{name}` | {purpose(path)} |" for name, path in shipped().items())
    for name, (path, told) in STAGES.items():
        yield f"\n## `fedpretrain {name}`: {told}\n"
        yield from table(parser_of(load(path.replace(":", ".")), name))
    yield "\n## Classes to choose from\n"
    for title, classes in CHOICES.items():
        yield f"\n### {title}"
        for path in classes:
            yield from of_class(path)


def of_class(path: str) -> Iterator[str]:
    kind = load(path)
    yield f"\n#### `{path}`\n\n{(kind.__doc__ or '').strip().splitlines()[0]}\n"
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, skip=FROM_DATA if path.startswith(("fedgen", "fedssl", "fedtune")) else set())
    yield from table(parser)


def table(parser: ArgumentParser) -> Iterator[str]:
    rows = list(_rows(parser))
    if rows:
        yield "| key | default | |\n|---|---|---|"
        yield from rows


def _rows(parser: ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if action.dest in ("help", "print_config", "config") or action.help is None or action.dest.endswith(".help"):
            continue
        told = " ".join(str(action.help).split())
        if action.option_strings and action.default != "==SUPPRESS==":
            yield f"| `{action.dest}` | {_shown(action.default)} | {told.replace('|', '/')} |"


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
