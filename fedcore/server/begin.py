"""The start of a training at a server that sees no image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from fedcore.algorithms.properties import share_of
from fedcore.algorithms.task import Task
from fedcore.errors import InputError
from fedcore.messages.agreement import Agreement, Facts
from fedcore.runs.communication import ANSWERS
from fedcore.runs.environment import versions
from fedcore.runs.folder import RunFolder
from fedcore.runs.record import intact
from fedcore.server.about import about_of
from fedcore.server.sites import Sites
from fedcore.training.checksum import checksum_of
from fedcore.training.local_trainer import LocalTrainer
from fedcore.transport.base import Transport


@dataclass(frozen=True)
class Begun:
    """Sites that have agreed and built the server's module, and what `run.json` says of them."""

    sites: Sites
    local: LocalTrainer
    about: dict[str, Any]

    def require_tests(self, what: str) -> None:
        """Raises InputError where no site has any; `what` they are called."""
        if not self.sites.testing:
            raise InputError(
                f"no site has {what}, so nothing could be scored; give rows of a manifest the split 'test'"
            )

    @property
    def training_images(self) -> dict[str, int]:
        """Images that each site trains on, as its policy lets it be known."""
        return {site: self.sites.facts[site].train for site in self.sites.training}


def begin(run: RunFolder, transport: Transport, task: Task, command: str, pretrained: bool = False) -> Begun:
    """Asks the sites for their facts, agrees with them or continues under the agreement of the run's first start, and
    builds the module on both sides.

    Args:
        run: Folder of the run.
        transport: The sites.
        task: What the recipe trains.
        command: The stage, for `run.json`.
        pretrained: Whether the module has weights that only the server has.

    Raises:
        InputErrors: Sites do not fit one another, or the run; nothing was written.
        InputError: No site has an image to train on.
    """
    run.prepare()
    if earlier := run.about() if run.rounds() else {}:
        sites = Sites.again(transport, *_earlier(run, earlier), run.name, run.digest)
    else:
        sites = Sites.of(transport, run.name, run.digest)
    if not sites.training:
        raise InputError(
            "no site has training images that this recipe can use (of split 'train', with labels or masks)"
        )
    module = task.module(sites.agreement)
    start = {name: t.detach().clone() for name, t in module.state_dict().items()} if pretrained else None
    sites.require_same_module(checksum_of(module), versions(), start)
    about = about_of(sites.facts, sites.agreement) | {"command": command}
    about |= {"facts": {site: asdict(of) for site, of in sites.facts.items()}, "agreement": asdict(sites.agreement)}
    if "data" in earlier:  # sites that have joined are compared one by one
        about["data"] = earlier["data"]
    return Begun(sites, LocalTrainer(module, share_of(task.algorithm, module), task.visit), about)


def _facts(tree: Mapping[str, Any]) -> Facts:
    values: dict[str, Any] = {name: tuple(of) if isinstance(of, list) else of for name, of in tree.items()}
    return Facts(**values)


def _agreement(tree: Mapping[str, Any]) -> Agreement:
    values: dict[str, Any] = {name: tuple(of) if isinstance(of, list) else of for name, of in tree.items()}
    return Agreement(**values)


def reopen(run: RunFolder, transport: Transport, digest: str) -> Sites:
    """The sites of a finished run, to be asked more.

    Args:
        run: Folder of the run.
        transport: The sites.
        digest: Of the recipe that they have approved.

    Raises:
        InputError: The run has not finished, or was a simulation.
        InputErrors: The images of a site have changed.
    """
    about = run.finished()
    if not about.get("facts"):
        raise InputError(f"{run.path} holds a simulated run, which has no sites on other machines; omit --at")
    known, agreement = _earlier(run, about)
    sites = Sites.again(transport, known, agreement, run.name, digest)
    return replace(sites, counted=run.counted(), record=run.path / ANSWERS)


def _earlier(run: RunFolder, about: Mapping[str, Any]) -> tuple[dict[str, Facts], Agreement]:
    """What sites said when the run began, and what they agreed on."""
    with intact(run.path / "run.json"):
        known = {site: _facts(of) for site, of in dict(about.get("facts", {})).items()}
        return known, _agreement(about.get("agreement", {}))
