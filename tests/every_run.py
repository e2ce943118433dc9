"""A short run of each kind, whose data leaves in all ways."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from fedcore.algorithms.fednova import FedNova
from fedcore.algorithms.local_only import LocalOnly
from fedcore.algorithms.quantised import Quantised
from fedcore.algorithms.scaffold import Scaffold
from fedcore.config.recipe import read_recipe
from fedcore.data.phantom.phantoms import Phantoms
from fedcore.data.source import Data
from fedcore.messages.reveals import Reveals
from fedcore.models.resnet import ResNet
from fedcore.privacy.policy import Policy
from fedcore.runs.folder import RunFolder
from fedcore.server.rounds import Rounds
from fedcore.training.visit import Visit
from fedgen.auditing.run import audit
from fedgen.gan.discriminator import Discriminator
from fedgen.gan.gan import GAN
from fedgen.gan.generator_network import GeneratorNetwork
from fedgen.gan.mdgan import MDGAN
from fedgen.latent.autoencoder import Autoencoder
from fedgen.latent.vae import VAE
from fedgen.oneshot.inversion import Inversion
from fedgen.oneshot.invert import invert
from fedgen.releases.release import release
from fedgen.sampling import sample
from fedgen.training import train
from fedssl.bank.statistics import ShareStatistics
from fedssl.bank.vectors import ShareVectors
from fedssl.methods.moco import MoCo
from fedssl.methods.simclr import SimCLR
from fedssl.pretraining import pretrain
from fedtune.classification.finetuning import finetune
from fedtune.segmentation.networks import EncoderUNet
from fedtune.segmentation.training import segment

WORDS = ["--data.size", "16", "--data.phantom.sites", "2", "--data.phantom.images_per_site", "100"]


ENCODER_WORDS = ["--encoder", "fedcore.models.resnet.ResNet", "--encoder.depth", "10", "--encoder.stem", "2"]


DATA = Data(size=16, phantom=Phantoms(sites=2, images_per_site=100, test_fraction=0.4))


ENCODER = partial(ResNet, depth=10, stem=2)


MOCO = partial(MoCo, bank_size=64, remote_bank_size=64, hidden_dim=16, projection_dim=8)


VISIT = Visit(batch_size=16, max_steps=4, accelerator="cpu")


SHORT: dict[str, Any] = {"data": DATA, "rounds": Rounds(1), "loggers": (), "visit": VISIT}


STATISTICS, FEATURES = Policy(Reveals.STATISTICS), Policy(Reveals.FEATURES)


FEW = Policy(min_patients=1)


QUIET, WEIGHTS = Policy(metrics=False, min_patients=1), Policy(Reveals.WEIGHTS)


SMALL_GAN = partial(
    GAN,
    generator_network=partial(GeneratorNetwork, widths=(8, 8), latent_dim=4),
    discriminator=partial(Discriminator, widths=(8, 8)),
)


SMALL_VAE = partial(VAE, network=partial(Autoencoder, widths=(8, 8)))


PRETRAINED: dict[str, dict[str, Any]] = {
    "weights": {"policy": WEIGHTS}, "quiet": {"policy": QUIET}, "metrics": {},
    "statistics": {"method": MOCO, "exchange": ShareStatistics(remote_features=16, min_patients=8)},
    "vectors": {"method": MOCO, "exchange": ShareVectors(upload_size=8, remote_features=8), "policy": FEATURES},
    "controls": {"algorithm": Scaffold()}, "lengths": {"algorithm": FedNova()}, "int8": {"algorithm": Quantised()},
    "alone": {"algorithm": LocalOnly()},
}  # fmt: skip


TUNED: dict[str, dict[str, Any]] = {
    "classes": {"policy": FEW}, "classes quiet": {"policy": QUIET},
    "classes alone": {"policy": FEW, "algorithm": LocalOnly()},
}  # fmt: skip


LEVELS = {
    "weights": "WEIGHTS", "quiet": "WEIGHTS", "metrics": "STATISTICS", "statistics": "STATISTICS",
    "vectors": "FEATURES", "controls": "STATISTICS", "lengths": "STATISTICS", "int8": "STATISTICS",
    "alone": "STATISTICS", "classes": "STATISTICS", "classes quiet": "STATISTICS", "classes alone": "STATISTICS",
    "masks": "STATISTICS", "gan": "FEATURES", "vae": "STATISTICS", "mdgan": "STATISTICS",
}  # fmt: skip


def _run(name: str, base: Path) -> Path:
    folder = base / name
    if name in PRETRAINED:
        how = {"method": SimCLR, **PRETRAINED[name]}
        pretrain(RunFolder(folder), ENCODER, **SHORT, **how)
    elif name in TUNED:
        recipe = read_recipe(finetune, "finetune", WORDS + ENCODER_WORDS).text
        finetune(RunFolder(folder, recipe), encoder=ENCODER, **SHORT, **TUNED[name])
    elif name == "masks":
        network = partial(EncoderUNet, encoder=ENCODER, decoder_channels=(8, 8, 8, 8, 8))
        segment(RunFolder(folder), network=network, policy=FEW, **SHORT)
    else:
        generator = SMALL_VAE if name == "vae" else SMALL_GAN
        recipe = read_recipe(train, "generate train", WORDS).text
        train(
            RunFolder(folder, recipe),
            generator,
            algorithm=MDGAN(generated_batch_size=8) if name == "mdgan" else None,
            **SHORT,
        )
    if name == "classes alone":
        invert(folder, base / "inverted", 4, inversion=Inversion(steps=2))
    if name == "gan":
        sample(folder, base / "set", 8)
        audit(folder, base / "set", base / "metrics", ["--data.phantom.test_fraction", "0.4"])
        release(base / "set", base / "released", force=True)
    return folder
