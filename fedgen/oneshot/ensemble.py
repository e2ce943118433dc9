"""The classifiers of a finished finetune run, alone and as an ensemble."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fedcore.errors import InputError
from fedcore.messages.tensors import Tensors
from fedcore.runs.classifiers import classifiers_of
from fedcore.runs.folder import RunFolder
from fedcore.transport.simulation import hand_over
from fedgen.generator import Conditions, ImageShape


class Ensemble(nn.Module):
    """The mean of the members' logits, as in FedISCA's code; frozen, and in evaluation mode."""

    def __init__(self, members: Iterable[nn.Module]):
        super().__init__()
        self.members = nn.ModuleList(members)
        self.requires_grad_(False).eval()

    def forward(self, images: Float[Tensor, "n c *space"]) -> Float[Tensor, "n k"]:
        logits = [member(images) for member in self.members]
        total: Tensor = sum(logits[1:], logits[0])
        return total / len(logits)


@dataclass(frozen=True)
class TeacherSplit:
    """The classifiers that images are inverted from, and those held out to evaluate the images: never the same, since
    a classifier assigns noise that was inverted from it to the class it was made for."""

    inverted: Ensemble
    held_out: Ensemble | None
    """None where no classifier is left."""

    def to(self, device: torch.device) -> TeacherSplit:
        return TeacherSplit(self.inverted.to(device), self.held_out and self.held_out.to(device))


@dataclass(frozen=True)
class TrainedClassifiers:
    """Of a finished finetune run."""

    run: RunFolder
    conditions: Conditions
    """The classes, and the sites that have a classifier of their own."""
    image_shape: ImageShape
    """Of the images that they classify."""
    networks: Mapping[str | None, nn.Module]
    """Images to logits, by site; the classifier of all sites under None."""
    handed_over: set[str] = field(default_factory=set)
    """Sites whose classifier has left them since the run was opened."""

    @classmethod
    def open(cls, path: Path) -> TrainedClassifiers:
        """Raises InputError where there is no finished finetune run, or it is damaged."""
        run = RunFolder(path)
        about = run.about()
        if (about.get("command"), about.get("status")) != ("finetune", "finished"):
            found = f"{about.get('command', 'no')} run that is {about.get('status', 'missing')}"
            raise InputError(f"classifiers are taken from a finished finetune run, {path} holds a {found}")
        run.finished()
        if about.get("multilabel"):
            raise InputError(
                f"the classifier of {path} predicts several findings per image; give a run with one class per image"
            )
        networks = classifiers_of(run)
        conditions = Conditions(tuple(about["classes"]), tuple(site for site in networks if site is not None))
        return cls(run, conditions, ImageShape(about["channels"], tuple(about["size"])), networks)

    def joint(self) -> Ensemble:
        """All classifiers. Each site's own one leaves its site for that, whole: see `fedcore.site.one_shot`."""
        for site, network in self.networks.items():
            if site is not None and site not in self.handed_over:
                hand_over(self.run, site, network.state_dict())
                self.handed_over.add(site)
        return Ensemble(self.networks.values())

    def of_site(self, site: str | None) -> Ensemble:
        """The classifier of one site, used at that site, so that nothing leaves it."""
        return Ensemble([self.networks[site]])

    def all_but(self, site: str | None) -> Ensemble | None:
        """None where no other site has a classifier of its own."""
        networks = [network for name, network in self.networks.items() if name != site]
        return Ensemble(networks) if networks else None

    def splits(self, per_site: bool, hold_out: bool) -> dict[str | None, TeacherSplit]:
        """With `per_site`, each site inverts its own classifier, and those of the other sites are held out. Else all
        are inverted together; with `hold_out` all but one site's, which is held out, and the split has its name.
        """
        if per_site:
            return {site: TeacherSplit(self.of_site(site), self.all_but(site)) for site in self.conditions.sites}
        everyone, found = self.joint(), {}
        if hold_out:
            for site in self.networks:
                if inverted := self.all_but(site):
                    found[site] = TeacherSplit(inverted, self.of_site(site))
        return found or {None: TeacherSplit(everyone, None)}

    def mean_weights(self) -> Tensors:
        """The mean of the classifiers' weights; they leave their sites for it as for `joint`."""
        states = [network.state_dict() for network in self.joint().members]
        means = {name: torch.stack([state[name].double() for state in states]).mean(0) for name in states[0]}
        return {name: mean.to(states[0][name].dtype) for name, mean in means.items()}

    def teachers(self, sites: Iterable[str | None]) -> dict[str | None, Ensemble]:
        """The classifier of each site; under None, all of them."""
        return {site: self.of_site(site) if site else self.joint() for site in dict.fromkeys(sites)}


@torch.no_grad()
def teacher_logits(
    teachers: Mapping[str | None, Ensemble], sites: Sequence[str | None], images: Float[Tensor, "n c *space"],
    batch_size: int,
) -> Float[Tensor, "n k"]:  # fmt: skip
    """Each image's logits by the teacher of its site."""
    parts, order = [], []
    for site, teacher in teachers.items():
        device = next(teacher.parameters()).device
        own = torch.tensor([i for i, of in enumerate(sites) if of == site], dtype=torch.long)
        parts += [teacher(images[at].to(device, torch.float32)).cpu() for at in own.split(batch_size) if len(at)]
        order.append(own)
    return torch.cat(parts)[torch.cat(order).argsort()]
