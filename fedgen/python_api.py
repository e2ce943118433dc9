"""`from fedgen import train_generator, sample, audit, release`: the commands of `fedpretrain generate` as functions."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedcore.cli.python_api import Run, call_command, train, words_of
from fedcore.config.trust import split_trust, trusting
from fedcore.data.synthetic.audit_record import AUDIT

if TYPE_CHECKING:
    from fedcore.data.synthetic.audit_record import AuditRecord
    from fedgen.generator import Generator

PathLike = str | os.PathLike[str]


class GeneratorRun(Run):
    """A run of `generate train`; `GeneratorRun("checkpoints/mine")` opens one of before."""

    def model(self) -> Generator:
        """The trained generator, on the CPU, in evaluation mode; its `sample` generates images in [-1, 1].

        If each site has its own generator, all of them as one.

        Raises:
            InputError: The run has not finished, or its files are damaged.
        """
        from fedgen.oneshot.joint_generator import load_run_generator

        return load_run_generator(self.path)


@dataclass(frozen=True)
class SyntheticImages(os.PathLike[str]):
    """A folder with synthetic images: a set, or a release."""

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def manifest(self) -> Path:
        """CSV file that lists the images, as `data.synthetic.manifest` of a recipe takes it."""
        from fedgen.synthetic.synthetic_set import MANIFEST

        return self.path / MANIFEST

    @property
    def scores(self) -> dict[str, Any]:
        """The record of the last audit, with both verdicts (`safe`, `useful`); empty before the first one.

        Raises:
            InputError: The record is damaged.
        """
        return self.audit_record().as_dict() if (self.path / AUDIT).exists() else {}

    def audit_record(self) -> AuditRecord:
        """Raises InputError where there is no whole record of an audit."""
        from fedcore.data.synthetic.audit_record import AuditRecord

        return AuditRecord.read(self.path)


def train_generator(
    recipe: str | Path | None = None,
    out: str | Path | None = None,
    manifest: str | Path | None = None,
    *,
    resume: bool = False,
    trust: Sequence[str] = (),
    **overrides: Any,
) -> GeneratorRun:
    """Trains a generator across hospitals, as `fedpretrain generate train RECIPE` does.

    Args:
        recipe: Name of an included recipe, such as "diffusion", or a YAML file; None: all values by default.
        out: Folder of the run; None: checkpoints/<recipe>.
        manifest: CSV file that lists the images; None: that of the recipe.
        resume: Continue the run in `out`.
        trust: Packages, in addition to fedpretrain's own, whose classes the recipe may name.
        overrides: Values of the recipe: `seed=1`, `rounds={"count": 50}`, `**{"rounds.count": 50}`.

    Raises:
        InputError: Recipe, images or folder must be corrected.
    """
    return GeneratorRun(*train("generate train", recipe, out, manifest, resume, trust, overrides))


def sample(run: PathLike, out: PathLike, **options: Any) -> SyntheticImages:
    """Generates a set of synthetic images, as `fedpretrain generate sample RUN OUT` does. It is not audited yet.

    Args:
        run: A finished run of `train_generator`.
        out: Folder of the set.
        options: `count`, `classes`, `sites`, `steps`, `solver`, `guidance`, `seed`, `batch_size`, `resume`, see
            `fedgen.sampling.sample`.

    Raises:
        InputError: An option is wrong, or the run has no generator.
    """
    from fedgen.sampling import sample

    call_command(sample, "generate sample", (run, out), options)
    return SyntheticImages(Path(out))


def audit(
    run: PathLike, folder: PathLike, encoder: PathLike | None = None, *, trust: Sequence[str] = (), **overrides: Any
) -> AuditRecord:
    """Each hospital searches the set for copies of its images, as `fedpretrain generate audit RUN SET` does.

    Args:
        run: The run that the set comes from.
        folder: The set.
        encoder: A pretraining run or an encoder's folder; only with one is fitness for use measured.
        trust: Packages, in addition to fedpretrain's own, whose classes the run's recipe may name.
        overrides: Values of the run's recipe, such as `data={"manifest": "moved.csv"}`.

    Returns:
        The record, also written to audit.json. `record.safe.answer` is "yes" if no image is a copy;
        `record.useful.answer` says whether a classifier learns from the images.

    Raises:
        InputError: Run, set and images do not belong together, or a site declined.
    """
    from fedgen.auditing.run import audit

    words, typed = split_trust(words_of(overrides))
    with trusting(*trust, *typed):
        return audit(Path(run), Path(folder), None if encoder is None else Path(encoder), words)


def release(folder: PathLike, out: PathLike, **options: Any) -> SyntheticImages:
    """Writes a set that passed its audit into a new folder, as `fedpretrain generate release SET OUT` does.

    Args:
        folder: An audited set.
        out: Folder of the release; it must not exist yet.
        options: `kind`, `drop`, `force`, `allow_not_useful`, `run`, see `fedgen.releases.release.release`.

    Raises:
        InputError: The set did not pass its audit or has changed since; nothing is written.
    """
    from fedgen.releases.release import release

    call_command(release, "generate release", (folder, out), options)
    return SyntheticImages(Path(out))
