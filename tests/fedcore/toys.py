"""The smallest hospitals, module and exchange with all kinds of tensors: weights, buffers, and state that stays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from fedcore.data.dataset import Images
from fedcore.data.loader import loader
from fedcore.messages.agreement import Agreement
from fedcore.messages.answer import Answer, Contribution
from fedcore.messages.message import Message, Weights
from fedcore.messages.request import TRAIN, Counted
from fedcore.messages.round import Round
from fedcore.messages.tensors import Tensors
from fedcore.privacy.audit_log import AuditLog
from fedcore.privacy.policy import Policy
from fedcore.seeds import seeded
from fedcore.server.sites import Sites
from fedcore.site.memory import MemoryInRam
from fedcore.site.site import Site
from fedcore.training.callbacks import LocalCallback
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.visit import Visit
from fedcore.transport.simulation import simulate

Factory = Callable[[Iterable[nn.Parameter]], Optimizer]


def momentum(parameters: Iterable[nn.Parameter]) -> Optimizer:
    return SGD(parameters, lr=0.1, momentum=0.9)


def plain(parameters: Iterable[nn.Parameter]) -> Optimizer:
    return SGD(parameters, lr=0.1)


class Toy(pl.LightningModule):
    """A linear layer and a batch norm, which travel, and a sum over the images seen, which stays at its site."""

    share = ("layer.", "norm.")
    metric_names = ("loss",)
    seen: Tensor

    def __init__(self, optimizer: Factory = momentum):
        super().__init__()
        with seeded(0):
            self.layer, self.norm = nn.Linear(64, 3), nn.BatchNorm1d(3)
        self.register_buffer("seen", torch.zeros(()))
        self.optimizer = optimizer

    def loss(self, images: Tensor) -> Tensor:
        self.seen += images.sum()
        target = images.flatten(1)[:, :3]
        return (self.norm(self.layer(images.flatten(1))).tanh() - target).square().mean()

    def training_step(self, images: Tensor, _: int) -> Tensor:
        loss = self.loss(images)
        self.log("loss", loss, on_step=False, on_epoch=True, batch_size=len(images))
        return loss

    def configure_optimizers(self) -> Optimizer:
        return self.optimizer(self.parameters())


def images(site: str = "a", count: int = 12, shift: float = 0.0) -> Images:
    """Training images of 8 x 8 pixels of noise around `shift`, different for each site."""
    rng = np.random.default_rng(list(site.encode()))
    pixels = (rng.uniform(-0.5, 0.5, (count, 1, 8, 8)) + shift).astype(np.float16)
    return Images(site, pixels, np.array(["train"] * count), torch.arange(count) % 2, np.arange(count))


def of_labels(labels: list[int], patients: list[int] | None = None, name: str = "a") -> Images:
    """A site's random 8 x 8 images with these labels; each image is of another patient unless `patients` are given."""
    rng, n = np.random.default_rng(list(name.encode())), len(labels)
    pixels = rng.uniform(-1, 1, (n, 1, 8, 8)).astype(np.float16)
    owner = np.array(range(n) if patients is None else patients, dtype=np.int64)
    return Images(name, pixels, np.full(n, "train"), torch.tensor(labels, dtype=torch.int64), owner)


def broken(site: str, count: int = 8) -> Images:
    """Images whose loss is NaN."""
    whole = images(site, count)
    return Images(site, np.full_like(whole.pixels, np.nan), whole.splits, whole.labels, whole.patients)


def hospitals(names: str = "abc") -> dict[str, Images]:
    """Sites of 8, 12, 16, ... images."""
    return {name: images(name, 8 + 4 * at) for at, name in enumerate(names)}


def at(name: str) -> Site:
    """A site of 8 images."""
    return Site(name, hospitals(name)[name])


def local(visit: Visit | None = None, module: pl.LightningModule | None = None, **kwargs: Any) -> LocalTrainer:
    module = module or Toy()
    share = kwargs.pop("share", Toy.share)
    return LocalTrainer(module, share, visit or Visit(batch_size=4, accelerator="cpu"), **kwargs)


def with_callbacks(transport: Hospitals, *callbacks: LocalCallback) -> Hospitals:
    """The same transport, with these callbacks in its visits."""
    local = transport.local
    transport.local = LocalTrainer(local.module, local.share, replace(local.visit, callbacks=callbacks))
    return transport


def central(module: Toy, data: Images, visit: Visit, rounds: int, begin: int = 0) -> Tensors:
    """Plain training on one site's images in the order of its visits; returns all of the module's state."""
    optimizer = module.configure_optimizers()
    for index in range(begin, rounds):
        if not visit.keep_optimizer:
            optimizer = module.configure_optimizers()
        for batch in batches(data, visit, Round(index, rounds, seed=0)):
            optimizer.zero_grad()
            module.loss(batch).backward()
            optimizer.step()
    return module.state_dict()


def batches(data: Images, visit: Visit, turn: Round) -> Iterator[Tensor]:
    """The batches that a site trains on in its visit, in the same order."""
    order = torch.Generator().manual_seed(turn.seed_of(data.site, "order"))
    epoch = loader(data, visit.batch_size, True, True, generator=order)
    for _ in range(visit.max_epochs):
        yield from epoch


def contribution(site: str, examples: int = 1, metrics: dict[str, float] | None = None, **tensors: Any) -> Any:
    """Weights as a site would send them, from plain numbers."""
    sent = {name: torch.as_tensor(value) for name, value in tensors.items()}
    return Contribution(site, Weights(sent), examples, metrics or {})


class Remembered:
    """The memories of sites in RAM, and which visit of each counts."""

    def __init__(self, held: Mapping[str, Tensors] | None = None):
        self.of = {site: MemoryInRam({-1: tensors}) for site, tensors in (held or {}).items()}
        self.counted = {site: Counted(-1, True) for site in held or {}}

    def get(self, site: str) -> Tensors:
        return self.of[site].get(self.counted.get(site)) if site in self.of else {}

    def put(self, site: str, tensors: Tensors, turn: Round) -> None:
        """As if a visit of this round had counted."""
        self.of.setdefault(site, MemoryInRam()).put(tensors, turn.index, self.counted.get(site))
        self.counted[site] = Counted(turn.index, bool(tensors))

    @property
    def held(self) -> dict[str, Tensors]:
        return {site: self.get(site) for site, of in self.counted.items() if of.keeps}


@dataclass
class Hospitals:
    """A simulation whose sites can be asked for anything."""

    train: Mapping[str, Images]
    local: LocalTrainer
    test: Mapping[str, Images] = field(default_factory=dict)
    policy: Policy = Policy()
    memories: Remembered = field(default_factory=Remembered)
    folder: Path | None = None
    through_bytes: bool = False
    on_disk: bool = False
    """Whether memories lie in `folder`, too."""
    on_visit: Callable[[str], None] | None = None

    def names(self) -> list[str]:
        return list(self.train)

    def sites(self, **words: Any) -> Sites:
        found = simulate(self.train, self.local, words, test=self.test, policy=self.policy, folder=self.folder)
        if not self.on_disk:
            for name, site in found.sites.items():
                site.memory = self.memories.of.setdefault(name, MemoryInRam())
        found.through_bytes = self.through_bytes
        facts = {name: site.facts() for name, site in found.sites.items()}
        one = next(iter(facts.values()))
        agreement = Agreement((), one.channels, one.size, tuple(facts))
        return Sites(found, facts, agreement, counted=self.memories.counted, on_request=self.on_visit)

    def ask(self, visitor: Any, tasks: Iterable[tuple[str, Message]], turn: Round) -> Iterator[Answer]:
        """What sites answer to `visitor`; a training counts."""
        word = TRAIN if hasattr(visitor, "merge") else "query"
        sites = self.sites(**{word: visitor})
        for answer in sites.ask(word, tasks, turn):
            if word == TRAIN and isinstance(answer, Contribution):
                sites.count(answer, turn)
            yield answer

    def site(self, name: str) -> Site:
        """As a visitor sees it."""
        own = self.folder / name if self.folder else None
        log = AuditLog(self.policy, own)
        return Site(name, self.train[name], self.test.get(name), self.memories.get(name), own, self.policy, log)
