"""The generator network at the server: what it generates for a site, and how it learns from the sites' gradients.

The functions of an algorithm receive the server's state and no module. So the state describes how to build the
network, and images are generated again from their seed when the site's gradients arrive.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from fedcore.files.reading import parse_json
from fedcore.messages.message import Message, Weights
from fedcore.messages.reveals import STATISTICS, WEIGHTS
from fedcore.messages.tensors import Tensors
from fedcore.training.optimizer_state import load_state, state_of
from fedgen.diffusion.sampler import noise_of
from fedgen.ema import update_ema
from fedgen.gan.gan import GAN
from fedgen.generative_model import OptimizerFactory
from fedgen.generator import UNCONDITIONED, Generator, drop_conditions
from fedgen.generator_store import build_generator, config_of


@dataclass(frozen=True)
class SamplingRequest:
    """Noise and conditions of images."""

    noise: Float[Tensor, "n latent"]
    labels: Int[Tensor, " n"]
    sites: Int[Tensor, " n"]

    def generate(self, generator: Generator, part: slice) -> Float[Tensor, "n c *space"]:
        """This part of the images, with gradients."""
        device = next(generator.network.parameters()).device
        images: Tensor = generator.network(*(t[part].to(device) for t in (self.noise, self.labels, self.sites)))
        return images


@dataclass(frozen=True)
class ServerGenerator(Message):
    """The state of the server."""

    weights: Weights
    """Generator network, EMA and its steps, under the names of the module."""
    optimizer: Tensors = field(metadata=WEIGHTS)
    """State of the generator network's optimizer; empty before the first step."""
    config: UInt8[Tensor, " bytes"] = field(metadata=WEIGHTS)
    """JSON: how to build the generator network, and the settings of its training."""
    class_counts: Tensors = field(metadata=STATISTICS)
    """By site, once the site has sent them: images of each class; last, those without a class."""

    @classmethod
    def of(cls, gan: GAN, weights: Tensors) -> ServerGenerator:
        config = {
            "generator": config_of(gan.generator), "condition_dropout": gan.condition_dropout,
            "ema_halflife": gan.ema_halflife,
        }  # fmt: skip
        text = json.dumps(config).encode()
        return cls(Weights(weights), {}, torch.frombuffer(bytearray(text), dtype=torch.uint8), {})

    def generator(self, device: torch.device, prefix: str = "generator_network.") -> Generator:
        """The generator with the current weights; with those of its EMA under the prefix `ema.`."""
        made = self.without_weights()
        own = {k.removeprefix(prefix): t for k, t in self.weights.tensors.items() if k.startswith(prefix)}
        made.network.load_state_dict({k: t.to(device, copy=True) for k, t in own.items()}, assign=True)
        return made

    def without_weights(self) -> Generator:
        """Its shapes and conditions, on the meta device: initial weights would take time and random numbers."""
        with torch.device("meta"):
            return build_generator(self._settings["generator"])

    def request(self, generator: Generator, site: str, seed: int, count: int) -> SamplingRequest:
        """The images for a site; a function of the seed and of the site's class counts."""
        random = torch.Generator().manual_seed(seed)
        classes = len(generator.conditions.classes)
        labels = torch.multinomial(self._class_weights(site, classes), count, replacement=True, generator=random)
        labels = torch.where(labels == classes, UNCONDITIONED, labels)
        sites = torch.full_like(labels, generator.conditions.site_index(site))
        conditions = drop_conditions(labels, sites, self._settings["condition_dropout"], random)
        return SamplingRequest(noise_of(seed, range(count), generator.noise_shape), *conditions)

    def _class_weights(self, site: str, classes: int) -> Float[Tensor, " rows"]:
        """The site's class counts; equal weights before they are known."""
        if site in self.class_counts:
            return self.class_counts[site].float()
        return torch.tensor([1.0] * classes + [float(classes == 0)])

    def step(
        self, generator: Generator, optimizer: OptimizerFactory, images: int, class_counts: Tensors
    ) -> ServerGenerator:
        """The state after an optimizer step with the generator's gradients, which came from so many images."""
        stepping = optimizer(generator.network.parameters())
        load_state(stepping, self.optimizer)
        stepping.step()
        device = next(generator.network.parameters()).device
        ema, ema_steps = self.generator(device, "ema.").network, self.weights.tensors["ema_steps"].clone()
        update_ema(ema, generator.network, images, self._settings["ema_halflife"], ema_steps)
        tensors = {f"generator_network.{k}": t for k, t in generator.network.state_dict().items()}
        tensors |= {f"ema.{k}": t for k, t in ema.state_dict().items()} | {"ema_steps": ema_steps}
        weights = Weights({k: t.detach().cpu() for k, t in tensors.items()})
        return ServerGenerator(weights, state_of(stepping), self.config, class_counts)

    @property
    def _settings(self) -> Mapping[str, Any]:
        settings: Mapping[str, Any] = parse_json(bytes(self.config.tolist()).decode())
        return settings
