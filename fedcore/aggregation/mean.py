"""The weighted mean of sites' models."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from fedcore.aggregation.base import accumulator_dtype, require_shape, to_dtype
from fedcore.errors import InputError
from fedcore.messages.answer import Contribution
from fedcore.messages.message import Weights
from fedcore.messages.tensors import Tensors


@dataclass(frozen=True)
class Mean:
    """Weighted mean (FedAvg, McMahan et al. 2017, arXiv 1602.05629), in one pass with one model in memory."""

    weight: str = "examples"
    """Weight of a site: `examples` (its number of images), `equal`, or the name of a metric >= 0 of its visit."""

    def combine(self, contributions: Iterable[Contribution[Weights]], current: Tensors) -> Tensors:
        total: Tensors = {}
        dtypes: dict[str, torch.dtype] = {}
        mass: dict[str, float] = {}
        for c in contributions:
            w = self._weight_of(c)
            for name, t in c.message.tensors.items():
                require_shape(c.site, name, t, total.get(name, current.get(name, t)))
                dtypes[name] = t.dtype
                mass[name] = mass.get(name, 0.0) + w
                # Running mean, total += (t - total) * w / mass: exact for one site, and without overflow.
                if name in total:
                    total[name].lerp_(t.to(total[name].dtype), w / mass[name] if mass[name] else 0.0)
                else:
                    total[name] = t.to(accumulator_dtype(t), copy=True)
        if not dtypes:
            raise InputError("no site contributed to this round, so there is nothing to average")
        if not any(mass.values()):
            raise InputError(
                f"Mean(weight={self.weight!r}) needs a weight above 0 from a site, all sent 0; set weight: examples"
            )
        return current | {name: to_dtype(t, dtypes[name]) for name, t in total.items() if mass[name]}

    def _weight_of(self, c: Contribution[Weights]) -> float:
        if self.weight in ("examples", "equal"):
            return float(c.examples) if self.weight == "examples" else 1.0
        if self.weight not in c.metrics:
            raise InputError(
                f"Mean(weight={self.weight!r}) needs this metric from site {c.site!r}, which sent "
                f"{sorted(c.metrics) or 'none'}; add the callback that reports it to visit.callbacks, or allow "
                "metrics in the policy"
            )
        return max(0.0, c.metrics[self.weight])
