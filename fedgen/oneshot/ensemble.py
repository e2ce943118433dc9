"""The classifiers that a finished finetune run left, and their answer together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fedcore.errors import InputError
from fedcore.messages.message import Tensors
from fedcore.runs.classifiers import classifiers_of
from fedcore.runs.folder import RunFolder
from fedcore.transport.simulation import hand_over
from fedgen.generator import Conditions, ImageShape


class Ensemble(nn.Module):
    """The mean of the members' logits, as FedISCA's code has it; frozen, and in evaluation mode."""

    def __init__(self, members: Iterable[nn.Module]):
        super().__init__()
        self.members = nn.ModuleList(members)
        self.requires_grad_(False).eval()

    def forward(self, images: Float[Tensor, "n c *space"]) -> Float[Tensor, "n k"]:
        answers = [member(images) for member in self.members]
        total: Tensor = sum(answers[1:], answers[0])
        return total / len(answers)


@dataclass(frozen=True)
class Panel:
    """Who makes images and who judges them: never the same, since noise convinces those that it was made by."""

    makers: Ensemble
    judges: Ensemble | None
    """None where no classifier is left."""

    def to(self, device: torch.device) -> Panel:
        return Panel(self.makers.to(device), self.judges and self.judges.to(device))


@dataclass(frozen=True)
class Tuned:
    """What a finished finetune run knows."""

    run: RunFolder
    known: Conditions
    """The classes, and the sites that have a classifier of their own."""
    canvas: ImageShape
    """Of the images that it classifies."""
    networks: Mapping[str | None, nn.Module]
    """Images to logits, by site; of all sites together under None."""
    handed_over: set[str] = field(default_factory=set)
    """Sites whose classifier has left them since the run was opened."""

    @classmethod
    def open(cls, path: Path) -> Tuned:
        """Raises InputError where no finished finetune run is, or it is damaged."""
        run = RunFolder(path)
        about = run.about()
        if (about.get("command"), about.get("status")) != ("finetune", "finished"):
            found = f"{about.get('command', 'no')} run that is {about.get('status', 'missing')}"
            raise InputError(f"classifiers are taken from a finished finetune run, {path} holds a {found}")
        run.finished()
        if about.get("multilabel"):
            raise InputError(f"the classifier of {path} tells several findings an image; one of one class is needed")
        networks = classifiers_of(run)
        known = Conditions(tuple(about["classes"]), tuple(site for site in networks if site is not None))
        return cls(run, known, ImageShape(about["channels"], tuple(about["size"])), networks)

    def together(self) -> Ensemble:
        """All of them. Each site's own leaves its site for that, whole: see fedcore.site.one_shot."""
        for site, network in self.networks.items():
            if site is not None and site not in self.handed_over:
                hand_over(self.run, site, network.state_dict())
                self.handed_over.add(site)
        return Ensemble(self.networks.values())

    def alone(self, site: str | None) -> Ensemble:
        """One site's, used at the site, so that nothing leaves."""
        return Ensemble([self.networks[site]])

    def others(self, site: str | None) -> Ensemble | None:
        """Of all sites but one; None where no other has a classifier of its own."""
        networks = [network for name, network in self.networks.items() if name != site]
        return Ensemble(networks) if networks else None

    def panels(self, each: bool, hold_out: bool) -> dict[str | None, Panel]:
        """With `each`, every site makes images by its own classifier, and the other sites judge them by theirs. Else
        all make them together; with `hold_out` all but one site, under whose name the panel stands, and it judges.
        """
        if each:
            return {site: Panel(self.alone(site), self.others(site)) for site in self.known.sites}
        everyone, found = self.together(), {}
        if hold_out:
            for site in self.networks:
                if makers := self.others(site):
                    found[site] = Panel(makers, self.alone(site))
        return found or {None: Panel(everyone, None)}

    def mean(self) -> Tensors:
        """The mean of the classifiers' weights; they leave their sites for it as for `together`."""
        states = [network.state_dict() for network in self.together().members]
        means = {name: torch.stack([state[name].double() for state in states]).mean(0) for name in states[0]}
        return {name: mean.to(states[0][name].dtype) for name, mean in means.items()}

    def teachers(self, sites: Iterable[str | None]) -> dict[str | None, Ensemble]:
        """Of each site its own; under None, all of them."""
        return {site: self.alone(site) if site else self.together() for site in dict.fromkeys(sites)}


@torch.no_grad()
def answers(
    teachers: Mapping[str | None, Ensemble], sites: Sequence[str | None], images: Float[Tensor, "n c *space"],
    batch_size: int,
) -> Float[Tensor, "n k"]:  # fmt: skip
    """Logits, each image's by the teacher of its site."""
    parts, order = [], []
    for site, teacher in teachers.items():
        device = next(teacher.parameters()).device
        own = torch.tensor([i for i, of in enumerate(sites) if of == site], dtype=torch.long)
        parts += [teacher(images[at].to(device, torch.float32)).cpu() for at in own.split(batch_size) if len(at)]
        order.append(own)
    return torch.cat(parts)[torch.cat(order).argsort()]
