"""FedDiffuse: only a part of the U-Net travels (de Goede, Cox and Decouchant 2024, arXiv 2406.12575).

- USplit: of each pair of sites one sends what goes down the U, the other what goes up. About half of the way up.
- ULatDec: bottleneck and decoder are everybody's, the encoder is each site's own.
- UDec: the decoder is everybody's.

The average that draws goes as the part that it is the average of. With ULatDec and UDec no generator is whole but
those of the sites, so a run leaves each one's in its own folder.

Our reading: the first convolution is the encoder's, the last norm and convolution are the decoder's. USplit sends the
bottleneck with the encoder, which makes the halves most alike (0.42 and 0.59 of `UNet` in 2D). What conditions every
part always travels, a hundredth of the whole: a decoder that sites share must be told time, class and site in the
same words.
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
from fedcore.messages.message import Contribution, Weights
from fedcore.site.site import Round, Site
from fedcore.training.local_trainer import LocalTrainer

Part = Literal["encoder", "bottleneck", "decoder"]
PARTS: dict[str, Part] = {
    "conv_in": "encoder", "down_blocks": "encoder",
    "mid_block": "bottleneck", "middle_block": "bottleneck",
    "up_blocks": "decoder", "conv_norm_out": "decoder", "conv_out": "decoder", "out": "decoder",
}  # fmt: skip
"""Of what both networks of `fedgen.diffusion.unet` call their children."""
HALVES: tuple[tuple[Part, ...], ...] = (("encoder", "bottleneck"), ("decoder",))


def part_of(name: str) -> Part | None:
    """The part of the U-Net that a tensor is of; None for what conditions all of them, and for counters."""
    return PARTS.get(name.partition(".network.net.")[2].partition(".")[0])


def half_of(site: str, sites: Sequence[str], turn: Round) -> tuple[Part, ...]:
    """What `site` sends this round: the sites are paired at random, anew each round, and a pair sends both halves.

    Of an odd number the one left over sends one half in one round and the other in the next.
    """
    order = random.Random(turn.seed_of("server", "pairs")).sample(sites, len(sites))
    return HALVES[(order.index(site) + turn.index) % 2]


@dataclass(frozen=True)
class USplit(FedAvg):
    """Each site is sent all and answers with one half of the U-Net, its average and what conditions it.

    The server averages each half over those who sent it. With `rounds.per_round` a round may leave a half as it was.
    """

    def start(self, local: LocalTrainer) -> Weights:
        _names(local.module)
        return super().start(local)

    def visit(self, site: Site, down: Weights, local: LocalTrainer, turn: Round) -> Contribution[Weights]:
        trained: Contribution[Weights] = super().visit(site, down, local, turn)
        module: Any = local.module
        sends = (*half_of(site.name, module.known.sites, turn), None)
        half = {k: t for k, t in trained.message.tensors.items() if part_of(k) in sends}
        return dataclasses.replace(trained, message=Weights(half))


@dataclass(frozen=True)
class ULatDec(FedAvg):
    """The encoder stays at its site."""

    def share(self, module: LightningModule) -> tuple[str, ...]:
        return _names(module, stays=("encoder",))


@dataclass(frozen=True)
class UDec(FedAvg):
    """Encoder and bottleneck stay at their site."""

    def share(self, module: LightningModule) -> tuple[str, ...]:
        return _names(module, stays=("encoder", "bottleneck"))


def _names(module: Any, stays: tuple[Part, ...] = ()) -> tuple[str, ...]:
    """What the module shares but for the parts that stay.

    Raises:
        InputError: It has no U-Net whose parts are known here.
    """
    names = [name for name in module.state_dict() if name.startswith(module.share)]
    if missing := set(PARTS.values()) - {part_of(name) for name in names}:
        raise InputError(
            f"FedDiffuse needs a generator with the network fedgen.diffusion.unet.UNet; in {type(module).__name__} "
            f"no {' and no '.join(sorted(missing))} was found"
        )
    return tuple(name for name in names if part_of(name) not in stays)
