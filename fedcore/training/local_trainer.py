"""Local training: one resident LightningModule that is at one site after another, with a fresh Trainer for each visit.

The module is built once; a visit copies the site's tensors into it in place. So a round over a thousand sites holds one
model in memory, and a visit costs a few milliseconds in addition to its training steps.
This module and `fedcore.training.visit` are the only ones that use Lightning's Trainer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from fedcore.data.loader import loader
from fedcore.errors import InputError, Refused, building
from fedcore.messages.message import is_finite
from fedcore.messages.metric_names import DeclaredMetrics, metric_names_of
from fedcore.messages.round import Round
from fedcore.messages.tensors import Tensors
from fedcore.privacy.buffers import levels_of
from fedcore.seeds import seeded
from fedcore.site.site import Site
from fedcore.training.callbacks import MetricCallback, SiteAware
from fedcore.training.functional import evaluating
from fedcore.training.mean_loss import MeanLoss
from fedcore.training.memory_format import channels_last
from fedcore.training.optimizer_state import KeepOptimizer
from fedcore.training.optimizers import SCHEDULES, split_optimizers
from fedcore.training.refusals import gpu_memory_refused, single_values_refused
from fedcore.training.site_state import MODULE, OPTIMIZER, with_prefix
from fedcore.training.unsaved_state import UnsavedState
from fedcore.training.visit import ClipFused, Visit, quiet

_MEASURING = "during evaluation, which needs less than training; another process may use the rest"


def implements(thing: Any, *methods: str) -> bool:
    """Whether it has these methods; a data field of the same name is none, though a Protocol would accept it."""
    return all(callable(getattr(thing, name, None)) for name in methods)


class LocalTrainer:
    """Holds the module, which is at one site after another.

    `share` are prefixes of the names in `state_dict()`: this state travels. The rest (a feature bank, a personal layer)
    belongs to the site and is stored in `site.memory` at the end of a visit. A module that trains on more than pixels
    has an attribute `targets` (see `fedcore.data.dataset.Target`).
    """

    def __init__(self, module: LightningModule, share: Sequence[str], visit: Visit = Visit()):
        self.module, self.share, self.visit = channels_last(module), tuple(share), visit
        if visit.gradient_clip_val is not None and not module.automatic_optimization:
            raise InputError(
                f"visit.gradient_clip_val must be null for {type(module).__name__}, which calls its own optimizers"
            )
        state = module.state_dict()
        for prefix in self.share:
            if not any(name.startswith(prefix) for name in state):
                raise InputError(
                    f"share names {prefix!r}, but no tensor of {type(module).__name__} starts with it; "
                    f"it has {sorted({n.split('.')[0] + '.' for n in state})}"
                )
        self.levels = levels_of(module, self._travels)
        """Level of the tensors that travel and reveal more than weights do."""
        self.metric_names = frozenset[str]().union(*map(metric_names_of, (MeanLoss, module, *visit.callbacks)))
        """Metrics that a training may send, as module and callbacks declare them."""
        self._initial = {k: v.detach().clone() for k, v in state.items() if not self._travels(k)}
        self._optimizer: Tensors = {}
        if visit.compile:
            for name, part in module.named_children():
                if any(self._travels(tensor) for tensor in state if tensor.startswith(f"{name}.")):
                    part.compile(dynamic=False)  # in place: the names of tensors do not change
        self._unsaved = UnsavedState(module, visit.callbacks)

    def optimizers(self) -> list[Optimizer] | None:
        """The module's optimizers, built for inspection; None where it can build them only during training.

        Raises:
            InputError: They cannot be built, or come with a learning rate schedule.
        """
        try:
            with building(f"the optimizer of {type(self.module).__name__}"):
                configured = self.module.configure_optimizers()
        except InputError as e:
            if "attached to a `Trainer`" in str(e):
                return None
            raise
        optimizers, has_schedules = split_optimizers(configured)
        if has_schedules:
            raise InputError(f"{type(self.module).__name__}.configure_optimizers returns {SCHEDULES}")
        return optimizers

    @contextmanager
    def at(self, site: Site) -> Iterator[None]:
        """Loads what belongs to `site` into the module; stores it in `site.memory` again if no error occurs.

        Raises:
            Refused: State that is not saved has changed (`fedcore.training.unsaved_state`); it is put back in any case.
        """
        with self._unsaved.unchanged():
            self.load(self._initial | with_prefix(MODULE, site.memory))
            self._optimizer = with_prefix(OPTIMIZER, site.memory)
            yield
        module = {MODULE + k: v for k, v in self._changed().items()}
        optimizer = {OPTIMIZER + k: v for k, v in self._optimizer.items()}
        # What an algorithm stores at the site has another prefix and stays as the visit left it.
        others = {k: v for k, v in site.memory.items() if not k.startswith((MODULE, OPTIMIZER))}
        site.memory = others | module | optimizer

    def reset(self, weights: Tensors) -> None:
        """The module with the server's `weights`; the state that belongs to sites has its initial values."""
        self._unsaved.restore()
        self.load(self._initial | weights)

    def _changed(self) -> Tensors:
        """Copies of the site's tensors that differ from their initial values; so a frozen encoder is not stored."""
        state = self.module.state_dict()
        return {k: state[k].detach().clone() for k, t in self._initial.items() if not torch.equal(state[k], t)}

    def shared(self) -> Tensors:
        """Copies of the tensors that travel, contiguous, as messages and files need them."""
        state = self.module.state_dict()
        dense = torch.contiguous_format
        return {k: v.detach().clone(memory_format=dense) for k, v in state.items() if self._travels(k)}

    @torch.no_grad()
    def load(self, tensors: Tensors) -> None:
        """Copies `tensors` into the module in place."""
        state = self.module.state_dict()
        if missing := sorted(tensors.keys() - state.keys()):
            raise InputError(
                f"{type(self.module).__name__} has no tensor {missing[0]!r} ({len(missing)} in all are unknown); "
                "the weights were made by another architecture"
            )
        for name, t in tensors.items():
            if state[name].shape != t.shape:
                raise InputError(
                    f"{name} has shape {tuple(t.shape)} in the weights and {tuple(state[name].shape)} in "
                    f"{type(self.module).__name__}; the weights were made by another architecture"
                )
            state[name].copy_(t)

    def fit(
        self, site: Site, turn: Round, anchor: Tensors, callbacks: Sequence[Callback] = ()
    ) -> dict[str, float]:  # fmt: skip
        """Trains at `site`; returns the mean loss of the last epoch and what module and callbacks report.

        Args:
            site: Where the module is.
            turn: The round.
            anchor: The weights that were sent, for `visit.callbacks`; empty where none were.
            callbacks: The algorithm's; they act before those of `visit.callbacks`.

        Raises:
            Refused: The loss or a weight is not finite, a metric is not declared, the GPU's memory is too small, or a
                single image is not enough for batch norm.
        """
        of_visit = [settings.callback(anchor, site, turn) for settings in self.visit.callbacks]
        if implements(self.module, "on_visit_start"):
            cast(SiteAware, self.module).on_visit_start(site.name, turn)
        with seeded(turn.seed_of(site.name)), quiet():
            order = torch.Generator().manual_seed(turn.seed_of(site.name, "order"))
            targets = getattr(self.module, "targets", None)
            batches = loader(site.images, self.visit.batch_size, True, True, targets, order, self.visit.device)
            keep = [KeepOptimizer(self._optimizer)] if self.visit.keep_optimizer else []
            clip = [ClipFused()] if self.visit.precision == "bf16-mixed" else []
            callbacks = [MeanLoss(), *callbacks]
            metrics = self._train(self.visit.trainer([*callbacks, *of_visit, *keep, *clip]), batches)
        self._require_declared(metrics, self.module)
        for callback in callbacks:  # those of the algorithm are declared by it, and checked before they leave
            metrics |= _report(callback)
        for settings, callback in zip(self.visit.callbacks, of_visit, strict=True):
            self._require_declared(reported := _report(callback), settings)
            metrics |= reported
        self._require_finite(metrics)
        return metrics

    def _train(self, trainer: Trainer, batches: Iterable[Any]) -> dict[str, float]:
        """Fits the module, frees the Trainer and returns what the module logged.

        A Trainer and its parts refer to each other, so Python would free them late, after hundreds of visits. Until
        then each would hold the optimizer's state, which is as large as the model or twice as large.
        """
        try:
            with gpu_memory_refused(self._batch_size_advice()), single_values_refused():
                trainer.fit(self.module, batches)
            return {k: float(v) for k, v in trainer.callback_metrics.items()}
        finally:
            self.module.trainer = None
            for part in (
                trainer.strategy,
                trainer,
            ):  # the metric of a logged value refers to the strategy and to itself
                vars(part).clear()

    @contextmanager
    def measuring(self) -> Iterator[torch.device]:
        """The module in evaluation mode, without gradients, on the device of the visits."""
        device = self.visit.device
        self.module.to(device)
        try:
            # Code is compiled for the size and mode of training; other sizes would be compiled again.
            eager = torch.compiler.set_stance("force_eager")
            with evaluating(self.module), torch.inference_mode(), eager, gpu_memory_refused(_MEASURING):
                yield device
        finally:
            self.module.cpu()

    def _batch_size_advice(self) -> str:
        """What to try where a step did not fit into memory."""
        batch, mixed = self.visit.batch_size, self.visit.precision != "32-true"
        or_mixed = "" if mixed else ", or visit.precision bf16-mixed"
        return f"at visit.batch_size {batch}; visit.batch_size {max(1, batch // 2)} may fit{or_mixed}"

    def _travels(self, name: str) -> bool:
        return name.startswith(self.share)

    def _require_declared(self, metrics: dict[str, float], source: Any) -> None:
        DeclaredMetrics(self.metric_names, type(source).__name__).require(metrics)

    def _require_finite(self, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            if not torch.isfinite(torch.tensor(value)):
                what = f"the {name}" if name in self.metric_names else "a metric"  # any other name may hold data
                raise Refused(f"{what} became {value}; a lower learning rate or gradient_clip_val may help")
        for name, t in self.module.state_dict().items():
            if not is_finite(t):
                raise Refused(f"{name} is no longer finite; a lower learning rate or gradient_clip_val may help")


def _report(callback: Callback) -> dict[str, float]:
    return cast(MetricCallback, callback).report() if implements(callback, "report") else {}
