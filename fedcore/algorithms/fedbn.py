"""FedBN: the norms of a network are each site's own, all else is everybody's (Li et al. 2021, arXiv 2102.07623).

Scanners differ in the statistics of what they make, and norms are where a network keeps these. In a recipe::

    algorithm: fedcore.algorithms.fedbn.FedBN
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from fedcore.algorithms.base import FedAvg
from fedcore.errors import InputError

BATCH = (_BatchNorm,)
ALL = (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm)


@dataclass(frozen=True)
class FedBN(FedAvg):
    """FedAvg in which scale, shift and running statistics of norms neither leave a site nor come to it.

    The server's own model keeps the norms that it was made with, or began with, so it is no model by itself: it is
    the sites that are evaluated, each with its norms. One that never trained has those of the server, and is best
    visited first, if only to learn its norms.
    """

    norms: Literal["batch", "all"] = "batch"
    """`batch` is the paper's, whose argument is about the running statistics. `all` keeps instance, group and layer
    norms at their sites too, which have none: then only scale and shift are personal."""

    def share(self, module: Any) -> tuple[str, ...]:
        """All that the module shares but its norms, name by name.

        Raises:
            InputError: No norm would stay, or one would travel because its name begins as another tensor's does.
        """
        names = [name for name in module.state_dict() if name.startswith(module.share)]
        stays = tuple(f"{name}." for name, part in module.named_modules() if isinstance(part, self._kinds))
        travels = tuple(name for name in names if not name.startswith(stays))
        if len(travels) == len(names):
            raise InputError(
                f"FedBN(norms={self.norms!r}) keeps norms at their sites, but of those {type(module).__name__} shares "
                "none; take FedAvg, or norms: all where it has group, instance or layer norms"
            )
        if clash := [name for name in names if name.startswith(stays) and name.startswith(travels)]:
            raise InputError(f"{clash[0]} of a norm begins with the whole name of what travels; rename one of the two")
        return travels

    @property
    def _kinds(self) -> tuple[type[nn.Module], ...]:
        return BATCH if self.norms == "batch" else ALL
