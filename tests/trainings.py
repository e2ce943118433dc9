"""Every algorithm, exchange, kind of module and evaluation, each as the smallest training of two sites."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from pytorch_lightning import LightningModule
from torch import nn
from torch.optim import SGD

from fedcore.aggregation.mean import Mean
from fedcore.aggregation.robust import Median, TrimmedMean
from fedcore.algorithms.ditto import Ditto
from fedcore.algorithms.fedavg import FedAvg
from fedcore.algorithms.fedbn import FedBN
from fedcore.algorithms.fednova import FedNova
from fedcore.algorithms.fedopt import Adagrad, Adam, FedOpt, Momentum, Yogi
from fedcore.algorithms.fedprox import ProximalTerm
from fedcore.algorithms.fedrep import FedRep
from fedcore.algorithms.incremental import Incremental
from fedcore.algorithms.local_only import LocalOnly
from fedcore.algorithms.properties import share_of
from fedcore.algorithms.quantised import Quantised
from fedcore.algorithms.scaffold import Scaffold
from fedcore.data.dataset import Images
from fedcore.exchanges.base import WithExchange
from fedcore.messages.reveals import Reveals
from fedcore.models.vit import ViT
from fedcore.privacy.policy import Policy
from fedcore.seeds import seeded
from fedcore.training.callbacks import LocalCallback
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.visit import Visit
from fedgen.diffusion.diffusion import Diffusion
from fedgen.diffusion.unet import UNet
from fedgen.federated.feddiffuse import UDec, ULatDec, USplit
from fedgen.federated.fedvss import FedVSS
from fedgen.gan.gan import LocalDiscriminators
from fedgen.gan.mdgan import MDGAN
from fedgen.generator import Conditions, ImageShape
from fedgen.latent.autoencoder import Autoencoder
from fedgen.latent.vae import VAE
from fedssl.bank.statistics import ShareStatistics
from fedssl.bank.vectors import ShareVectors
from fedssl.evaluation.probe import Probe
from fedssl.federation.fedema import FedEMA
from fedssl.federation.fedu import FedU
from fedssl.federation.ldawa import LDAWA
from fedssl.federation.similarity import RepresentationChange
from fedssl.methods.byol import BYOL
from fedssl.methods.dino import DINO
from fedssl.methods.fcl import FCL
from fedssl.methods.fedx import FedX
from fedssl.methods.mae import MAE
from fedssl.methods.moco import MoCo
from fedssl.methods.rotation import Rotation
from fedssl.methods.simclr import SimCLR
from fedssl.methods.simsiam import SimSiam
from fedssl.methods.vicreg import VICReg
from fedtune.classification.classifier import Classifier
from fedtune.classification.moon import MOON
from fedtune.evaluation.classification import EvaluateClassifier
from fedtune.evaluation.segmentation import EvaluateSegmenter
from fedtune.segmentation.segmenter import Segmenter
from tests.conftest import Toy as Encoder
from tests.fedcore.toy_exchanges import ShareTotals
from tests.fedcore.toys import Toy, hospitals, plain
from tests.fedgen.gans import gan

NAMES = "ab"
EVERYTHING = Policy(Reveals.SAMPLES, min_patients=1)
VISIT = Visit(batch_size=4, accelerator="cpu")
KEEPING = replace(VISIT, max_epochs=2, keep_optimizer=True)
CONDITIONS = Conditions(("cat", "dog"), tuple(NAMES))
PROX = (ProximalTerm(mu=0.1),)


@dataclass(frozen=True)
class Training:
    module: Callable[[], LightningModule]
    algorithm: Any
    evaluator: Any = None
    visit: Visit = VISIT
    callbacks: tuple[LocalCallback, ...] = ()

    def local(self) -> LocalTrainer:
        with seeded(3):
            module = self.module()
        visit = replace(self.visit, callbacks=self.callbacks)
        return LocalTrainer(module, share_of(self.algorithm, module), visit)


def images_of_all_kinds(names: str = NAMES) -> dict[str, Images]:
    """By site, with labels, masks and positions, which some modules need."""
    return {name: with_masks(of) for name, of in hospitals(names).items()}


def with_masks(of: Images) -> Images:
    masks = np.asarray(of.pixels[:, 0] > 0).astype(np.uint8)
    return replace(of, masks=masks, positions=np.linspace(0, 1, len(of), dtype=np.float32))


def toy(algorithm: Any, keep_optimizer: bool = True, callbacks: tuple[LocalCallback, ...] = ()) -> Training:
    visit = replace(KEEPING, keep_optimizer=keep_optimizer)
    return Training(lambda: Toy(plain), algorithm, visit=visit, callbacks=callbacks)


def small_vit() -> ViT:
    return ViT(2, 1, patch=4, width=8, depth=1, heads=2, mlp_ratio=1.0)


NARROW = {"hidden_dim": 8, "projection_dim": 4}
BANK = NARROW | {"bank_size": 8, "remote_bank_size": 8}
METHODS: dict[str, Callable[[], LightningModule]] = {
    "BYOL": lambda: BYOL(Encoder(), **NARROW),
    "DINO": lambda: DINO(Encoder(), hidden_dim=8, bottleneck_dim=4, output_dim=6),
    "FCL": lambda: FCL(Encoder(), **BANK),
    "FedX": lambda: FedX(Encoder(), **NARROW),
    "MAE": lambda: MAE(small_vit(), decoder_width=8, decoder_depth=1, decoder_heads=2),
    "MoCo": lambda: MoCo(Encoder(), **BANK),
    "Rotation": lambda: Rotation(Encoder()),
    "SimCLR": lambda: SimCLR(Encoder(), **NARROW),
    "SimSiam": lambda: SimSiam(Encoder(), hidden_dim=8, projection_dim=6, predictor_hidden_dim=4),
    "VICReg": lambda: VICReg(Encoder(), **NARROW),
}
VECTORS = ShareVectors(upload_size=6, remote_features=4)
STATISTICS = ShareStatistics(remote_features=4, min_patients=2)


def classifier() -> Classifier:
    return Classifier(Encoder(), 2, optimizer=lambda p: SGD(p, lr=0.1), augment=None)


def segmenter() -> Segmenter:
    return Segmenter(nn.Conv2d(1, 2, 3, padding=1), (8, 8), optimizer=lambda p: SGD(p, lr=0.1), augment=None)


def diffusion() -> Any:
    return Diffusion(ImageShape(1, (8, 8)), CONDITIONS, partial(UNet, widths=(8, 16)))


def vae() -> Any:
    return VAE(ImageShape(1, (8, 8)), CONDITIONS, network=partial(Autoencoder, latent_channels=2, widths=(8, 16)))


def generator(module: Callable[[], Any], algorithm: Any) -> Training:
    return Training(module, algorithm, visit=replace(VISIT, max_steps=2))


TRAININGS: dict[str, Training] = {
    "FedAvg": toy(FedAvg()),
    "FedAvg with equal weights": toy(FedAvg(Mean("equal"))),
    "FedAvg weighted by a metric": toy(FedAvg(Mean("loss"))),
    "trimmed mean": toy(FedAvg(TrimmedMean())),
    "median": toy(FedAvg(Median())),
    "FedProx": toy(FedAvg(), callbacks=PROX),
    "SCAFFOLD": toy(Scaffold()),
    "SCAFFOLD with a proximal term": toy(Scaffold(sites=2), callbacks=PROX),
    "FedNova": toy(FedNova(), callbacks=PROX),
    "FedAvgM": toy(FedOpt(rule=Momentum())),
    "FedAdagrad": toy(FedOpt(rule=Adagrad())),
    "FedAdam": toy(FedOpt(rule=Adam())),
    "FedYogi": toy(FedOpt(rule=Yogi())),
    "FedBN": toy(FedBN()),
    "FedRep": toy(FedRep(head_epochs=1, head="norm.")),
    "Ditto": toy(Ditto(), keep_optimizer=False),
    "Ditto with SCAFFOLD": toy(Ditto(Scaffold()), keep_optimizer=False),
    "incremental": toy(Incremental()),
    "local only": toy(LocalOnly()),
    "quantised": toy(Quantised()),
    "quantised incremental": toy(Quantised(Incremental())),
    "quantised SCAFFOLD": toy(Quantised(Scaffold())),
    "quantised FedNova": toy(Quantised(FedNova())),
    "quantised FedProx": toy(Quantised(), callbacks=PROX),
    "quantised FedAdam": toy(Quantised(FedOpt(rule=Adam()))),
    "quantised Ditto": toy(Quantised(Ditto()), keep_optimizer=False),
    "exchange": toy(WithExchange(FedAvg(), exchange=ShareTotals())),
    "exchange with quantised FedBN": toy(WithExchange(Quantised(FedBN()), exchange=ShareTotals())),
    "exchange of models that stay local": toy(WithExchange(LocalOnly(), exchange=ShareTotals())),
    "exchange with Ditto": toy(
        WithExchange(Ditto(FedOpt(rule=Yogi())), exchange=ShareTotals()), keep_optimizer=False
    ),
    **{
        name: Training(module, FedAvg(), Probe(knn_k=3, linear=name == "BYOL")) for name, module in METHODS.items()
    },
    "FedEMA": Training(METHODS["BYOL"], FedEMA()),
    "FedU": Training(METHODS["BYOL"], FedU(mu=0.05)),
    "FedEMA with a proximal term": Training(METHODS["BYOL"], FedEMA(), callbacks=PROX),
    "L-DAWA": Training(METHODS["SimCLR"], FedAvg(LDAWA())),
    "representation change": Training(
        METHODS["SimCLR"], FedAvg(Mean("representation_change")), callbacks=(RepresentationChange(max_images=8),)
    ),
    "vectors": Training(METHODS["MoCo"], WithExchange(FedAvg(), exchange=VECTORS)),
    "vectors in int8": Training(METHODS["MoCo"], WithExchange(exchange=replace(VECTORS, encoding="int8"))),
    "vectors in fp32": Training(METHODS["MoCo"], WithExchange(Quantised(), exchange=replace(VECTORS, encoding="fp32"))),
    "vectors with positions": Training(METHODS["FCL"], WithExchange(exchange=VECTORS)),
    "statistics": Training(METHODS["MoCo"], WithExchange(exchange=STATISTICS)),
    "statistics with FedBN": Training(METHODS["FCL"], WithExchange(FedBN(), exchange=STATISTICS)),
    "classifier": Training(classifier, FedAvg(), EvaluateClassifier()),
    "classifier by patient": Training(classifier, FedAvg(), EvaluateClassifier(per_patient=True, grades=[1, 0])),
    "MOON": Training(classifier, FedAvg(), callbacks=(MOON(),)),
    "FedVSS": Training(classifier, FedAvg(), callbacks=(FedVSS(),)),
    "classifier with FedRep": Training(
        classifier, FedRep(head_epochs=1), EvaluateClassifier(), replace(VISIT, max_epochs=2)
    ),
    "segmenter": Training(segmenter, FedAvg(), EvaluateSegmenter(2, 1.0)),
    "diffusion": generator(diffusion, FedAvg()),
    "quantised diffusion": generator(diffusion, Quantised()),
    "FedDiffuse USplit": generator(diffusion, USplit()),
    "FedDiffuse ULatDec": generator(diffusion, ULatDec()),
    "FedDiffuse UDec": generator(diffusion, UDec()),
    "VAE": generator(vae, FedAvg()),
    "GAN": generator(gan, FedAvg()),
    "GAN with local discriminators": generator(gan, LocalDiscriminators()),
    "MD-GAN": generator(
        gan, MDGAN(generated_batch_size=4, optimizer=partial(SGD, lr=0.02, momentum=0.9), accelerator="cpu")
    ),
}  # fmt: skip
