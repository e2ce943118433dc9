"""FedDiffuse: only a part of the U-Net travels (de Goede, Cox and Decouchant 2024, arXiv 2406.12575).

- USplit: of each pair of sites, one sends encoder and bottleneck, the other the decoder. About half of the upload.
- ULatDec: bottleneck and decoder are shared, each site has its own encoder.
- UDec: the decoder is shared, each site has its own encoder and bottleneck.

The EMA travels like the part that it averages. With ULatDec and UDec only the sites have complete generators, so a run
saves each one in its site's folder.

Our reading: the first convolution belongs to the encoder, the last norm and convolution to the decoder. USplit sends
the bottleneck with the encoder, which makes the halves most similar in size (0.42 and 0.59 of `UNet` in 2D). The
embeddings of time, class and site always travel, a hundredth of the whole: parts that sites share need the same
embeddings.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pytorch_lightning import LightningModule

from fedcore.algorithms.fedavg import FedAvg
from fedcore.errors import InputError
from fedcore.messages.answer import Contribution
from fedcore.messages.message import Weights
from fedcore.messages.round import Round
from fedcore.site.site import Site
from fedcore.training.local_trainer import LocalTrainer

Part = Literal["encoder", "bottleneck", "decoder"]
PARTS: dict[str, Part] = {
    "conv_in": "encoder", "down_blocks": "encoder",
    "mid_block": "bottleneck", "middle_block": "bottleneck",
    "up_blocks": "decoder", "conv_norm_out": "decoder", "conv_out": "decoder", "out": "decoder",
}  # fmt: skip
"""By the names of the submodules of both networks of `fedgen.diffusion.unet`."""
HALVES: tuple[tuple[Part, ...], ...] = (("encoder", "bottleneck"), ("decoder",))


def part_of(name: str) -> Part | None:
    """The part of the U-Net that a tensor belongs to; None for embeddings and counters."""
    return PARTS.get(name.partition(".unet.net.")[2].partition(".")[0])


def half_of(site: str, sites: Sequence[str], turn: Round) -> tuple[Part, ...]:
    """The parts that `site` sends this round. Each round pairs the sites at random, and a pair sends both halves.

    With an odd number of sites, the one without a partner sends the halves in turn, round by round.
    """
    order = random.Random(turn.seed_of("server", "pairs")).sample(sites, len(sites))
    return HALVES[(order.index(site) + turn.index) % 2]


@dataclass(frozen=True)
class USplit(FedAvg):
    """Each site receives the whole U-Net and sends one half, its EMA and the embeddings.

    The server averages each half over the sites that sent it. With `rounds.per_round` a round may not change a half.
    """

    def start(self, local: LocalTrainer) -> Weights:
        _shared_names(local.module)
        return super().start(local)

    def visit(self, site: Site, down: Weights, local: LocalTrainer, turn: Round) -> Contribution[Weights]:
        trained: Contribution[Weights] = super().visit(site, down, local, turn)
        module: Any = local.module
        sends = (*half_of(site.name, module.conditions.sites, turn), None)
        half = {k: t for k, t in trained.message.tensors.items() if part_of(k) in sends}
        return dataclasses.replace(trained, message=Weights(half))


@dataclass(frozen=True)
class ULatDec(FedAvg):
    """The encoder stays at its site."""

    def share(self, module: LightningModule) -> tuple[str, ...]:
        return _shared_names(module, stays=("encoder",))


@dataclass(frozen=True)
class UDec(FedAvg):
    """Encoder and bottleneck stay at their site."""

    def share(self, module: LightningModule) -> tuple[str, ...]:
        return _shared_names(module, stays=("encoder", "bottleneck"))


def _shared_names(module: Any, stays: tuple[Part, ...] = ()) -> tuple[str, ...]:
    """Names of the shared tensors, without the parts that stay at the site.

    Raises:
        InputError: The module has no U-Net with these parts.
    """
    names = [name for name in module.state_dict() if name.startswith(module.share)]
    if missing := set(PARTS.values()) - {part_of(name) for name in names}:
        raise InputError(
            f"FedDiffuse needs a generator with the network fedgen.diffusion.unet.UNet; {type(module).__name__} has "
            f"no {' and no '.join(sorted(missing))}"
        )
    return tuple(name for name in names if part_of(name) not in stays)
