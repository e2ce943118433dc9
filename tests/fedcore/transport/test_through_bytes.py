"""Runs whose requests and answers travel as bytes equal runs in which they do not, to the bit: whatever is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
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
from fedcore.messages.message import Contribution, Empty, Message, Reveals, Weights, flatten
from fedcore.messages.request import TRAIN
from fedcore.messages.round import Round
from fedcore.models.vit import ViT
from fedcore.privacy.policy import Policy
from fedcore.runs.communication import RoundRecord
from fedcore.seeds import seeded
from fedcore.server.rounds import Rounds
from fedcore.site.one_shot import HandOver
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.visit import Visit
from fedgen.auditing.audit import Audit, AuditRequest
from fedgen.diffusion.diffusion import Diffusion
from fedgen.diffusion.unet import UNet
from fedgen.federated.feddiffuse import UDec, ULatDec, USplit
from fedgen.federated.fedvss import FedVSS
from fedgen.gan.gan import LocalDiscriminators
from fedgen.gan.mdgan import MDGAN
from fedgen.generator import Conditions, ImageShape
from fedgen.latent.autoencoder import Autoencoder
from fedgen.latent.vae import VAE
from fedgen.synthetic.class_counts import CountClasses
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
from tests.fedcore.toys import Hospitals, ShareTotals, Toy, federate, hospitals, images, local, plain, same
from tests.fedgen.gans import gan

NAMES = "ab"
EVERYTHING = Policy(Reveals.SAMPLES, min_patients=1)
VISIT = Visit(batch_size=4, accelerator="cpu")
TWICE = replace(VISIT, max_epochs=2, keep_optimizer=True)
KNOWN = Conditions(("cat", "dog"), tuple(NAMES))


@dataclass
class Ran:
    state: Message
    hospitals: Hospitals
    records: list[RoundRecord] = field(default_factory=list)


def ran(make: Callable[[], LocalTrainer], algorithm: Any, evaluator: Any = None, **more: Any) -> tuple[Ran, Ran]:
    """Two rounds without bytes, and the same through them."""
    found = []
    for through_bytes in (False, True):
        trainer = make()
        data = {name: sliced(of) for name, of in hospitals(NAMES).items()}
        where = Hospitals(data, trainer, data, EVERYTHING, through_bytes=through_bytes, **more)
        end = Ran(algorithm.start(trainer), where)
        end.state = federate(
            algorithm, where, end.state, Rounds(2), 0, evaluator=evaluator, every=1,
            finished=lambda record, _, end=end: end.records.append(record),
        )  # fmt: skip
        found.append(end)
    return found[0], found[1]


def sliced(of: Images) -> Images:
    """With all that any method may want of images."""
    count = len(of)
    masks = np.asarray(of.pixels[:, 0] > 0).astype(np.uint8)
    return replace(of, masks=masks, positions=np.linspace(0, 1, count, dtype=np.float32))


def without_seconds(record: RoundRecord) -> dict[str, Any]:
    told = record.as_dict() | {"seconds": 0.0}
    return told | {"sites": {name: site | {"seconds": 0.0} for name, site in told["sites"].items()}}


def assert_equal(pair: tuple[Ran, Ran]) -> None:
    direct, by_bytes = pair
    assert type(direct.state) is type(by_bytes.state)
    assert same(flatten(direct.state), flatten(by_bytes.state))
    assert list(flatten(direct.state)) == list(flatten(by_bytes.state))
    assert direct.hospitals.memories.counted == by_bytes.hospitals.memories.counted
    for name in NAMES:
        assert same(direct.hospitals.memories.get(name), by_bytes.hospitals.memories.get(name))
    assert [*map(without_seconds, direct.records)] == [*map(without_seconds, by_bytes.records)]
    assert len(direct.records) == 2
    assert not any(record.refused for record in direct.records)
    assert any(record.sites[name].examples for record in direct.records for name in record.sites)


PROX = (ProximalTerm(mu=0.1),)
ALGORITHMS: dict[str, Any] = {
    "FedAvg": FedAvg(),
    "FedAvg, equal sites": FedAvg(Mean("equal")),
    "FedAvg, weighed by a metric": FedAvg(Mean("loss")),
    "trimmed mean": FedAvg(TrimmedMean()),
    "median": FedAvg(Median()),
    "FedProx": FedAvg(guides=PROX),
    "SCAFFOLD": Scaffold(),
    "SCAFFOLD with FedProx": Scaffold(sites=2, guides=PROX),
    "FedNova": FedNova(guides=PROX),
    "FedAvgM": FedOpt(rule=Momentum()),
    "FedAdagrad": FedOpt(rule=Adagrad()),
    "FedAdam": FedOpt(rule=Adam()),
    "FedYogi": FedOpt(rule=Yogi()),
    "FedBN": FedBN(),
    "FedRep": FedRep(head_epochs=1, head="norm."),
    "Ditto": Ditto(),
    "Ditto over SCAFFOLD": Ditto(Scaffold()),
    "Incremental": Incremental(),
    "LocalOnly": LocalOnly(),
    "Quantised": Quantised(),
    "Quantised Incremental": Quantised(Incremental()),
    "Quantised FedProx": Quantised(FedAvg(guides=PROX)),
    "Quantised FedAdam": Quantised(FedOpt(rule=Adam())),
    "Ditto, quantised": Quantised(Ditto()),
    "an exchange": WithExchange(FedAvg(), exchange=ShareTotals()),
    "an exchange, quantised": WithExchange(Quantised(FedBN()), exchange=ShareTotals()),
    "an exchange alone": WithExchange(LocalOnly(), exchange=ShareTotals()),
    "Ditto with an exchange": WithExchange(Ditto(FedOpt(rule=Yogi())), exchange=ShareTotals()),
}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_algorithms(name: str) -> None:
    algorithm = ALGORITHMS[name]
    visit = replace(TWICE, keep_optimizer="Ditto" not in name)
    assert_equal(ran(lambda: local(visit, Toy(plain), share=share_of(algorithm, Toy())), algorithm))


def small_vit() -> ViT:
    return ViT(2, 1, patch=4, width=8, depth=1, heads=2, mlp_ratio=1.0)


BANK = {"bank": 8, "remote": 8, "hidden": 8, "dim": 4}
NARROW = {"hidden": 8, "dim": 4}
METHODS: dict[str, Callable[[], nn.Module]] = {
    "BYOL": lambda: BYOL(Encoder(), **NARROW),
    "DINO": lambda: DINO(Encoder(), hidden=8, bottleneck=4, dim=6),
    "FCL": lambda: FCL(Encoder(), **BANK),
    "FedX": lambda: FedX(Encoder(), **NARROW),
    "MAE": lambda: MAE(small_vit(), width=8, depth=1, heads=2),
    "MoCo": lambda: MoCo(Encoder(), **BANK),
    "Rotation": lambda: Rotation(Encoder()),
    "SimCLR": lambda: SimCLR(Encoder(), **NARROW),
    "SimSiam": lambda: SimSiam(Encoder(), hidden=8, dim=6, bottleneck=4),
    "VICReg": lambda: VICReg(Encoder(), **NARROW),
}
VECTORS = ShareVectors(upload_size=6, remote_features=4)
STATISTICS = ShareStatistics(draw=4, at_least=2)
RULES: dict[str, tuple[str, Any]] = {
    "FedEMA": ("BYOL", FedEMA()),
    "FedU": ("BYOL", FedU(mu=0.05)),
    "FedEMA over FedProx": ("BYOL", FedEMA(FedAvg(guides=PROX))),
    "L-DAWA": ("SimCLR", FedAvg(LDAWA())),
    "representation change": (
        "SimCLR", FedAvg(Mean("representation_change"), (RepresentationChange(images=8),)),
    ),
    "vectors": ("MoCo", WithExchange(FedAvg(), VECTORS)),
    "vectors as int8": ("MoCo", WithExchange(FedAvg(), replace(VECTORS, wire="int8"))),
    "vectors in full": ("MoCo", WithExchange(Quantised(), replace(VECTORS, wire="fp32"))),
    "vectors of parts": ("FCL", WithExchange(FedAvg(), VECTORS)),
    "statistics": ("MoCo", WithExchange(FedAvg(), STATISTICS)),
    "statistics beside FedBN": ("FCL", WithExchange(FedBN(), STATISTICS)),
}  # fmt: skip


def method(name: str, algorithm: Any) -> LocalTrainer:
    with seeded(3):
        module: Any = METHODS[name]()
    return LocalTrainer(module, share_of(algorithm, module), VISIT)


@pytest.mark.parametrize("name", METHODS)
def test_self_supervised_methods_and_their_probe(name: str) -> None:
    assert_equal(ran(lambda: method(name, FedAvg()), FedAvg(), Probe(k=3, linear=name == "BYOL")))


@pytest.mark.parametrize("name", RULES)
def test_self_supervised_rules_and_exchanges(name: str) -> None:
    kind, algorithm = RULES[name]
    assert_equal(ran(lambda: method(kind, algorithm), algorithm))


def classifier(algorithm: Any = None) -> LocalTrainer:
    with seeded(1):
        module = Classifier(Encoder(), 2, optimizer=lambda p: SGD(p, lr=0.1), augment=None)
    return LocalTrainer(module, share_of(algorithm or FedAvg(), module), VISIT)


def segmenter() -> LocalTrainer:
    with seeded(1):
        module = Segmenter(nn.Conv2d(1, 2, 3, padding=1), (8, 8), optimizer=lambda p: SGD(p, lr=0.1), augment=None)
    return LocalTrainer(module, ("network.",), VISIT)


TUNED: dict[str, tuple[Callable[[], LocalTrainer], Any, Any]] = {
    "classifier": (classifier, FedAvg(), EvaluateClassifier()),
    "classifier by patient": (classifier, FedAvg(), EvaluateClassifier(patients=True, grades=[1, 0])),
    "MOON": (classifier, FedAvg(guides=(MOON(),)), None),
    "FedVSS": (classifier, FedAvg(guides=(FedVSS(),)), None),
    "FedRep": (partial(classifier, FedRep(head_epochs=1)), FedRep(head_epochs=1), EvaluateClassifier()),
    "segmenter": (segmenter, FedAvg(), EvaluateSegmenter(2, 1.0)),
}


@pytest.mark.parametrize("name", TUNED)
def test_classifiers_segmenters_and_their_evaluation(name: str) -> None:
    make, algorithm, evaluator = TUNED[name]
    visit = {"FedRep": TWICE}.get(name, VISIT)

    def made() -> LocalTrainer:
        trainer = make()
        trainer.visit = visit
        return trainer

    assert_equal(ran(made, algorithm, evaluator))


def diffusion() -> Any:
    return Diffusion(ImageShape(1, (8, 8)), KNOWN, partial(UNet, widths=(8, 16)))


def vae() -> Any:
    return VAE(ImageShape(1, (8, 8)), KNOWN, network=partial(Autoencoder, latents=2, widths=(8, 16)))


GENERATORS: dict[str, tuple[Callable[[], Any], Any]] = {
    "diffusion": (diffusion, FedAvg()),
    "diffusion, quantised": (diffusion, Quantised()),
    "FedDiffuse, USplit": (diffusion, USplit()),
    "FedDiffuse, ULatDec": (diffusion, ULatDec()),
    "FedDiffuse, UDec": (diffusion, UDec()),
    "VAE": (vae, FedAvg()),
    "GAN": (gan, FedAvg()),
    "GAN whose critics stay": (gan, LocalDiscriminators()),
    "MD-GAN": (gan, MDGAN(fakes=4, optimizer=partial(SGD, lr=0.02, momentum=0.9), accelerator="cpu")),
}


@pytest.mark.parametrize("name", GENERATORS)
def test_generators(name: str) -> None:
    make, algorithm = GENERATORS[name]

    def made() -> LocalTrainer:
        with seeded(0):
            module = make()
        return LocalTrainer(module, share_of(algorithm, module), replace(VISIT, max_steps=2))

    assert_equal(ran(made, algorithm))


class Eyes(Toy):
    """Looks with what an audit sends."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Flatten()


def shown() -> AuditRequest:
    pixels = torch.rand(6, 1, 8, 8) * 2 - 1
    ones = torch.zeros(6).long()
    return AuditRequest(pixels, pixels.flatten(1), ones, ones, torch.arange(6), Weights({}))


QUERIES: dict[str, tuple[Callable[[], LocalTrainer], Any, Callable[[LocalTrainer], Message]]] = {
    "probe": (partial(method, "MoCo", FedAvg()), Probe(k=3, linear=True), lambda own: Weights(own.shared())),
    "evaluation": (classifier, EvaluateClassifier(), lambda own: Weights(own.shared())),
    "masks": (segmenter, EvaluateSegmenter(2, 1.0), lambda own: Weights(own.shared())),
    "audit": (lambda: local(module=Eyes()), Audit(KNOWN, digest="abc"), lambda own: shown()),
    "class counts": (local, CountClasses(2), lambda own: Empty()),
    "a model that is handed over": (
        local, HandOver(lambda site: {"w": torch.ones(2), "count": torch.tensor(3)}, 8), lambda own: Empty(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", QUERIES)
def test_what_is_asked_outside_of_rounds(name: str, tmp_path: Path) -> None:
    make, visitor, down = QUERIES[name]
    found: list[dict[str, Contribution[Message]]] = []
    for through_bytes in (False, True):
        with seeded(5):
            trainer = make()
            sent = down(trainer)
        data: Mapping[str, Images] = {name: sliced(images(name, 24)) for name in NAMES}
        folder = tmp_path / str(through_bytes)
        where = Hospitals(data, trainer, data, EVERYTHING, through_bytes=through_bytes, folder=folder)
        sites = where.sites(**{TRAIN: FedAvg(), "query": visitor})
        found.append({a.site: a for a in sites.query_all("query", sent, list(NAMES), Round(0, 1, 0), "asked")})
    for direct, by_bytes in zip(*(of.values() for of in found), strict=True):
        assert type(direct.message) is type(by_bytes.message)
        assert same(flatten(direct.message), flatten(by_bytes.message))
        assert list(flatten(direct.message)) == list(flatten(by_bytes.message))
        assert replace(direct, message=by_bytes.message, seconds=by_bytes.seconds) == by_bytes


def test_tensors_of_unusual_layout_travel_as_equal_numbers() -> None:
    """Channels last, as convolutions of a trainer are, and parts of a larger tensor."""
    layer: Tensor = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)[:, 1:]
    tensors = {"layer": layer, "row": layer[0, 0], "turned": layer.mT, "wide": torch.ones(1).expand(3)}
    where = Hospitals(hospitals("a"), local(), through_bytes=True)
    sites = where.sites(query=HandOver(lambda site: tensors, 8))
    (answer,) = sites.query_all("query", Empty(), ["a"], Round(0, 1, 0), "asked")
    assert same(answer.message.tensors, tensors)  # type: ignore[attr-defined]
