"""`from fedtune import finetune, segment`: the commands of these names as functions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedcore.cli.python_api import Run, train
from fedcore.config.trust import trusting

if TYPE_CHECKING:
    from torch import nn


class FinetuningRun(Run):
    """A run of `finetune` or `segment`; `FinetuningRun("checkpoints/mine")` opens one of before."""

    def model(self, site: str | None = None) -> nn.Module:
        """The trained network, on the CPU, in evaluation mode.

        It takes images (n, channels, *size) with values in [-1, 1], prepared as in training, and returns logits:
        (n, classes), or (n, classes, *size) of a segmenter.

        Args:
            site: If each site has its own model: that of this site.

        Raises:
            InputError: The run has not finished, its files are damaged, or there is no model of this site.
        """
        from fedcore.runs.folder import RunFolder
        from fedtune.prediction.predict import TrainedModel

        with trusting(*self.trust):
            return TrainedModel.load(RunFolder(self.path), site).network


def finetune(
    recipe: str | Path | None = None,
    out: str | Path | None = None,
    manifest: str | Path | None = None,
    *,
    resume: bool = False,
    trust: Sequence[str] = (),
    **overrides: Any,
) -> FinetuningRun:
    """Trains a classifier across hospitals, as `fedpretrain finetune RECIPE` does.

    Args:
        recipe: Name of an included recipe, such as "classify", or a YAML file; None: all values by default.
        out: Folder of the run; None: checkpoints/<recipe>.
        manifest: CSV file that lists images and labels; None: that of the recipe.
        resume: Continue the run in `out`.
        trust: Packages, in addition to fedpretrain's own, whose classes the recipe may name.
        overrides: Values of the recipe: `pretrained=run`, `label_fraction=0.1`, `rounds={"count": 50}`.

    Raises:
        InputError: Recipe, images or folder must be corrected.
    """
    return FinetuningRun(*train("finetune", recipe, out, manifest, resume, trust, overrides))


def segment(
    recipe: str | Path | None = None,
    out: str | Path | None = None,
    manifest: str | Path | None = None,
    *,
    resume: bool = False,
    trust: Sequence[str] = (),
    **overrides: Any,
) -> FinetuningRun:
    """Trains a segmenter across hospitals, as `fedpretrain segment RECIPE` does. Arguments and errors as `finetune`."""
    return FinetuningRun(*train("segment", recipe, out, manifest, resume, trust, overrides))
