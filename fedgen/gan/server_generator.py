"""A painter that stays at the server: what is drawn for a site, and how gradients of drawn images teach it.

The functions of an algorithm are given the server's state and no module. So the state says how to build the painter,
and what was drawn for a site is drawn again from its seed when the site's gradients come back.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from fedcore.files.reading import json_of
from fedcore.messages.message import STATISTICS, WEIGHTS, Message, Tensors, Weights
from fedcore.training.optimizer_state import load_state, state_of
from fedgen.diffusion.sampler import noise_of
from fedgen.ema import follow
from fedgen.gan.gan import GAN
from fedgen.generative import OptimizerFactory
from fedgen.generator import UNCONDITIONED, Generator, dropped_conditions
from fedgen.generator_store import built, plan_of


@dataclass(frozen=True)
class Order:
    """What images are made from."""

    noise: Float[Tensor, "n latent"]
    labels: Int[Tensor, " n"]
    sites: Int[Tensor, " n"]

    def drawn_by(self, painter: Generator, part: slice) -> Float[Tensor, "n c *space"]:
        """That part of the images, with gradients."""
        device = next(painter.network.parameters()).device
        images: Tensor = painter.network(*(t[part].to(device) for t in (self.noise, self.labels, self.sites)))
        return images


@dataclass(frozen=True)
class Studio(Message):
    """All that the server holds."""

    weights: Weights
    """Painter, average and the steps taken, under the names of the module."""
    optimizer: Tensors = field(metadata=WEIGHTS)
    """The painter's; empty before the first step."""
    plan: UInt8[Tensor, " bytes"] = field(metadata=WEIGHTS)
    """JSON: how to build the painter, and the module's settings that drawing and learning take."""
    labels: Tensors = field(metadata=STATISTICS)
    """By site, once it has said so: images of each class; last, those without one."""

    @classmethod
    def of(cls, gan: GAN, weights: Tensors) -> Studio:
        plan = {"painter": plan_of(gan.generator), "dropped": gan.dropped, "halflife": gan.halflife}
        text = json.dumps(plan).encode()
        return cls(Weights(weights), {}, torch.frombuffer(bytearray(text), dtype=torch.uint8), {})

    def painter(self, device: torch.device, prefix: str = "painter.") -> Generator:
        """The painter as it stands; or its average, under another prefix."""
        with torch.device("meta"):  # no first weights, which would take time and the caller's random numbers
            made = built(self._settings["painter"])
        own = {k.removeprefix(prefix): t for k, t in self.weights.tensors.items() if k.startswith(prefix)}
        made.network.load_state_dict({k: t.to(device, copy=True) for k, t in own.items()}, assign=True)
        return made

    def order(self, painter: Generator, site: str, ticket: int, count: int) -> Order:
        """What is drawn for a site; a function of the ticket and of the labels that the site has."""
        random = torch.Generator().manual_seed(ticket)
        classes = len(painter.known.classes)
        labels = torch.multinomial(self._often(site, classes), count, replacement=True, generator=random)
        labels = torch.where(labels == classes, UNCONDITIONED, labels)
        sites = torch.full_like(labels, painter.known.site(site))
        asked = dropped_conditions(labels, sites, self._settings["dropped"], random)
        return Order(noise_of(ticket, range(count), painter.noise_shape), *asked)

    def _often(self, site: str, classes: int) -> Float[Tensor, " known"]:
        """How often each class is drawn: as the site has it, else evenly."""
        if site in self.labels:
            return self.labels[site].float()
        return torch.tensor([1.0] * classes + [float(classes == 0)])

    def stepped(self, painter: Generator, optimizer: OptimizerFactory, images: int, labels: Tensors) -> Studio:
        """The painter after a step by the gradients it holds, which came from so many images."""
        stepping = optimizer(painter.network.parameters())
        load_state(stepping, self.optimizer)
        stepping.step()
        device = next(painter.network.parameters()).device
        average, steps = self.painter(device, "average.").network, self.weights.tensors["steps"].clone()
        follow(average, painter.network, images, self._settings["halflife"], steps)
        tensors = {f"painter.{k}": t for k, t in painter.network.state_dict().items()}
        tensors |= {f"average.{k}": t for k, t in average.state_dict().items()} | {"steps": steps}
        weights = Weights({k: t.detach().cpu() for k, t in tensors.items()})
        return Studio(weights, state_of(stepping), self.plan, labels)

    @property
    def _settings(self) -> Mapping[str, Any]:
        settings: Mapping[str, Any] = json_of(bytes(self.plan.tolist()).decode())
        return settings
