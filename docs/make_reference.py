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

from fedcore.cli import STAGES
from fedcore.recipe import parser_of
from fedcore.recipes import command_of, purpose, shipped

Row = tuple[str, str, str]
"""Key, default and meaning of an option."""
VIEWS = "fedcore.views.Views"
PAGE = Path(__file__).parent / "recipes.md"
CHOICES = {
    "Methods (`method`)": [
        "fedssl.simclr.SimCLR", "fedssl.moco.MoCo", "fedssl.fcl.FCL", "fedssl.fedx.FedX", "fedssl.byol.BYOL",
        "fedssl.simsiam.SimSiam", "fedssl.vicreg.VICReg", "fedssl.dino.DINO", "fedssl.mae.MAE",
        "fedssl.rotation.Rotation",
    ],
    "Views (`views` of methods, `augment` of classifiers and segmenters)": [VIEWS],
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
