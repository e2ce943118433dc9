"""FedBN: each site has its own normalisation layers; everything else is shared (Li et al. 2021, arXiv 2102.07623).

Images of different scanners have different statistics, which norms adapt to. In a recipe::

    algorithm: fedcore.algorithms.fedbn.FedBN
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from fedcore.algorithms.fedavg import FedAvg
from fedcore.errors import InputError

BATCH = (_BatchNorm,)
ALL = (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm)


@dataclass(frozen=True)
class FedBN(FedAvg):
    """FedAvg in which scale, shift and running statistics of norms stay at the sites.

    The server's norms keep their initial values, so the server's model cannot be used by itself: each site is evaluated
    with its own norms. A site that never trained has the server's norms; let it take part once to train its own.
    """

    norms: Literal["batch", "all"] = "batch"
    """`batch`, as in the paper, whose argument is about running statistics. `all` keeps instance, group and layer norms
    at the sites too; they have no running statistics, so only scale and shift are personal."""

    def share(self, module: Any) -> tuple[str, ...]:
        """Full names of all tensors that the module shares, without its norms.

        Raises:
            InputError: The module shares no norm, or a norm's name starts with the full name of a tensor that travels.
        """
        names = [name for name in module.state_dict() if name.startswith(module.share)]
        stays = tuple(f"{name}." for name, part in module.named_modules() if isinstance(part, self._kinds))
        travels = tuple(name for name in names if not name.startswith(stays))
        if len(travels) == len(names):
            raise InputError(
                f"FedBN(norms={self.norms!r}) keeps norms at their sites, but {type(module).__name__} shares no such "
                "norm; use FedAvg, or set norms: all where it has group, instance or layer norms"
            )
        if clash := [name for name in names if name.startswith(stays) and name.startswith(travels)]:
            raise InputError(f"{clash[0]}, of a norm, starts with the full name of a tensor that travels; rename one")
        return travels

    @property
    def _kinds(self) -> tuple[type[nn.Module], ...]:
        return BATCH if self.norms == "batch" else ALL
