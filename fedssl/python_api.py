"""`from fedssl import pretrain`: the command `fedpretrain pretrain` as a function."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedcore.cli.python_api import Run, train

if TYPE_CHECKING:
    from fedcore.models.base import Encoder


class PretrainingRun(Run):
    """A run of `pretrain`; `PretrainingRun("checkpoints/mine")` opens one of before."""

    def encoder(self) -> Encoder:
        """The pretrained encoder, on the CPU, in evaluation mode.

        It takes images (n, channels, *size) with values in [-1, 1], prepared as in training, and returns features
        (n, width).

        Raises:
            InputError: The run has not finished, its files are damaged, or each site has an encoder of its own.
        """
        from fedcore.models.encoder_store import build_encoder, find_encoder

        return build_encoder(find_encoder(self.path))


def pretrain(
    recipe: str | Path | None = None,
    out: str | Path | None = None,
    manifest: str | Path | None = None,
    *,
    resume: bool = False,
    trust: Sequence[str] = (),
    **overrides: Any,
) -> PretrainingRun:
    """Pretrains an encoder across hospitals, as `fedpretrain pretrain RECIPE` does.

    Args:
        recipe: Name of an included recipe, such as "moco_shared_bank", or a YAML file; None: all values by default.
        out: Folder of the run; None: checkpoints/<recipe>.
        manifest: CSV file that lists the images; None: that of the recipe.
        resume: Continue the run in `out`.
        trust: Packages, in addition to fedpretrain's own, whose classes the recipe may name.
        overrides: Values of the recipe: `seed=1`, `rounds={"count": 50}`, `**{"rounds.count": 50}`.

    Raises:
        InputError: Recipe, images or folder must be corrected.
    """
    return PretrainingRun(*train("pretrain", recipe, out, manifest, resume, trust, overrides))
