"""The weights that a run starts from, where the server has them from a pretrained model.

Parts of a model that stay at a site (norms under FedBN, a head under FedRep, the models of Ditto) start from them too,
so a site needs the whole state of the server's module.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import nn

from fedcore.errors import Refused
from fedcore.files.writing import write_atomically
from fedcore.messages.tensors import Tensors, for_safetensors
from fedcore.models.weights import differences
from fedcore.training.checksum import checksum_of

_FILE = "start.safetensors"


@dataclass
class StartWeights:
    """What the server sent, kept in the site's folder of the run once it was found to be what was agreed on."""

    folder: Path
    received: Tensors | None = None

    def load(self, module: nn.Module, checksum: str) -> None:
        """Gives a freshly built module the state that was agreed on.

        Args:
            module: As the recipe builds it.
            checksum: Of the module with these weights (`fedcore.training.checksum`).

        Raises:
            Refused: There are no weights, or they are not those that were agreed on.
        """
        new, self.received = self.received, None
        tensors = new if new is not None else self._kept()
        if differences(module.state_dict(), tensors):
            raise Refused("the weights that the run starts from do not fit the model of the recipe")
        module.load_state_dict(tensors)
        if checksum_of(module) != checksum:
            raise Refused("the weights that the run starts from are not those that were agreed on")
        if new is not None:
            write_atomically(self.folder / _FILE, safetensors.torch.save(for_safetensors(new)), durable=True)

    def _kept(self) -> Tensors:
        try:
            tensors: Tensors = safetensors.torch.load((self.folder / _FILE).read_bytes())
        except (OSError, SafetensorError):
            raise Refused(
                "it does not have the weights that the run starts from; end the run's job and start it again, so that "
                "the server sends them"
            ) from None
        return tensors
