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
from fedcore.messages.message import STATISTICS, Contribution, Message, Tensors, Weights, flatten
from fedcore.runs.checkpoint import Checkpoint
from fedcore.seeds import seeded
from fedcore.server.rounds import Rounds, federate
from fedcore.site.site import Round, Site
from fedcore.training.callbacks import LocalCallback
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.visit import Visit
from fedcore.transport.in_process import InProcess

Factory = Callable[[Iterable[nn.Parameter]], Optimizer]


def momentum(parameters: Iterable[nn.Parameter]) -> Optimizer:
    return SGD(parameters, lr=0.1, momentum=0.9)


def plain(parameters: Iterable[nn.Parameter]) -> Optimizer:
    return SGD(parameters, lr=0.1)


class Toy(pl.LightningModule):
    """A linear layer and a batch norm, which travel, and a sum over the images seen, which stays at its site."""

    share = ("layer.", "norm.")
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


def with_callbacks(transport: InProcess, *callbacks: LocalCallback) -> InProcess:
    """The same transport, with these callbacks in its visits."""
    transport.local.visit = replace(transport.local.visit, callbacks=callbacks)
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


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Whether names, dtypes and values are exactly equal."""
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


def run(algorithm: Any, transport: InProcess, rounds: Rounds = Rounds(3)) -> Any:
    """The server's last state; the sites' memories are in the transport."""
    return federate(algorithm, transport, algorithm.start(transport.local), rounds, 0)


class Stop(Exception):
    """Ends a run after a round is committed."""


def assert_resumes(algorithm: Any, make: Callable[[], InProcess], folder: Path, rounds: Rounds = Rounds(4)) -> None:
    """A run that is stopped after its second round and resumed from disk gives the results of an uninterrupted one."""

    def to_disk(begin: int, until: int) -> tuple[Any, Checkpoint]:
        checkpoint = Checkpoint.open(folder)
        transport = replace(make(), memories=checkpoint)
        state = algorithm.start(transport.local)
        if begin:
            state = checkpoint.restore(state)

        def finished(record: Any, state: Message) -> None:
            checkpoint.commit(record.round, state)
            if record.round + 1 == until:
                raise Stop

        return federate(algorithm, transport, state, rounds, 0, begin=begin, finished=finished), checkpoint

    whole = make()
    expected = run(algorithm, whole, rounds)
    try:
        to_disk(0, until=2)
    except Stop:
        state, checkpoint = to_disk(2, until=-1)
    assert same(flatten(state), flatten(expected))
    assert all(same(checkpoint.get(name), whole.memories.get(name)) for name in whole.names())


@dataclass
class Sender:
    """An algorithm that trains nothing: each site sends its message in `sends`, or raises its exception."""

    sends: Mapping[str, Message | Exception]
    metrics: dict[str, float] = field(default_factory=dict)
    merged: list[str] = field(default_factory=list)

    def start(self, local: LocalTrainer) -> Weights:
        return Weights({})

    def broadcast(self, state: Weights, site: str, turn: Round) -> Weights:
        return state

    def visit(self, site: Site, down: Weights, local: LocalTrainer, turn: Round) -> Contribution[Any]:
        answer = self.sends[site.name]
        if isinstance(answer, Exception):
            raise answer
        site.memory = {"noted": torch.tensor(turn.index)}
        return Contribution(site.name, answer, site.size, self.metrics)

    def merge(self, state: Weights, contributions: Iterable[Contribution[Any]]) -> Weights:
        self.merged.extend(c.site for c in contributions)
        return state


@dataclass(frozen=True)
class Total(Message):
    seen: Tensor = field(metadata=STATISTICS)


@dataclass(frozen=True)
class Totals(Message):
    by_site: Tensors = field(metadata=STATISTICS)


@dataclass
class ShareTotals:
    """An exchange of the sum of pixels that each site has seen; lists its calls in order."""

    events: list[tuple[str, Any]] = field(default_factory=list)

    def start(self) -> Totals:
        return Totals({})

    def broadcast(self, pool: Totals, site: str, turn: Round) -> Totals:
        return Totals({name: t for name, t in pool.by_site.items() if name != site})

    def receive(self, module: Toy, down: Totals, turn: Round) -> None:
        self.events.append(("receive", (sorted(down.by_site), float(module.seen))))

    def collect(self, module: Toy, site: Site, turn: Round) -> Total:
        self.events.append(("collect", float(module.seen)))
        return Total(module.seen.clone())

    def merge(self, pool: Totals, uploads: dict[str, Total]) -> Totals:
        return Totals(pool.by_site | {site: up.seen for site, up in uploads.items()})
