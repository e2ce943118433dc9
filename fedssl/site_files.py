"""What a site keeps of a pretraining: images with their views, and the encoder that is its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch

from fedcore.errors import Refused
from fedcore.messages.agreement import Agreement
from fedcore.models.encoder_store import save_encoder
from fedcore.seeds import seeded
from fedcore.site.farewell import own_part
from fedcore.site.figure_files import AugmentedViewsFile
from fedcore.site.site import Site
from fedcore.training.local_trainer import LocalTrainer
from fedssl.card import site_card
from fedssl.methods.base import Method


@dataclass(frozen=True)
class Samples:
    """A few training images with their views, for the report."""

    seed: int
    count: int = 6

    @property
    def what(self) -> str:
        return "sample images"

    def make(self, site: Site, local: LocalTrainer) -> None:
        if site.folder is None:
            raise Refused("it has no folder")
        images, module = site.images, cast(Method, local.module)
        places = np.unique(np.linspace(0, len(images) - 1, min(self.count, len(images))).astype(int))
        batch = images.batch(places)
        with seeded(self.seed), torch.no_grad():
            views = torch.stack(module.views(batch), dim=1)
        AugmentedViewsFile(batch.half().numpy(), views.half().numpy()).save(site.folder)


@dataclass(frozen=True)
class OwnEncoder:
    """The encoder of a site that has one, or a part of one, to itself; it stays there."""

    agreement: Agreement

    @property
    def what(self) -> str:
        return "encoder"

    def make(self, site: Site, local: LocalTrainer) -> None:
        own = [name for name in own_part(site.memory) if name.startswith("encoder.")]
        if not own or site.folder is None:
            return
        module = cast(Method, local.module)
        alone = len(own) == len(module.encoder.state_dict())
        save_encoder(
            site.folder / "encoder",
            module.encoder,
            about_encoder(self.agreement, module),
            site_card(site, module, alone),
        )


def about_encoder(agreement: Agreement, module: Method) -> dict[str, Any]:
    """What `encoder.json` says in addition to how to build the encoder."""
    return {"classes": list(agreement.classes), "size": list(agreement.size), "method": type(module).__name__}
