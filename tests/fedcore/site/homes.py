"""Hospitals with a folder of their own each, and a server that reaches them by bytes alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedcore.config.recipe import Recipe, read_recipe
from fedcore.config.shared_recipe import SharedRecipe
from fedcore.config.stages import server_of, stage_of
from fedcore.data.phantom.phantoms import Phantoms
from fedcore.messages.answer import Answer, Refusal
from fedcore.messages.encoding import kinds_of_messages
from fedcore.messages.message import Empty, Message
from fedcore.messages.proposal import PROPOSE, Proposal
from fedcore.messages.request import Request
from fedcore.messages.round import Round
from fedcore.messages.wire import answer_of, request_bytes
from fedcore.runs.folder import RunFolder
from fedcore.site.approval import approve, propose
from fedcore.site.home import SiteHome
from fedcore.site.host import SiteHost
from fedcore.site.settings import SETTINGS, settings_text
from tests.fedcore.site.test_own_data import NAMES, split

TURN = Round(0, 1, 0)
TINY = [
    "--data.size", "16", "--visit.batch_size", "8", "--visit.max_steps", "2", "--visit.accelerator", "cpu",
    "--rounds.count", "2", "--policy.min_patients", "1", "--loggers", "[]",
]  # fmt: skip
ARGUMENTS = {
    "pretrain": ["--encoder.depth", "10", "--encoder.stem", "4", "--probe.every", "1", "--probe.knn_k", "3"],
    "finetune": ["--encoder.depth", "10", "--encoder.stem", "4"],
}


def recipe(command: str = "pretrain", *words: str) -> Recipe:
    """A training of a second."""
    return read_recipe(stage_of(command), command, [*TINY, *ARGUMENTS.get(command, []), *words])


def shared(command: str = "pretrain", *words: str) -> SharedRecipe:
    return SharedRecipe.of(command, recipe(command, *words).text)


def new_home(folder: Path, name: str, manifest: Path, level: str = "STATISTICS") -> SiteHome:
    folder.mkdir(parents=True)
    text = settings_text(name).replace("manifest: null", f"manifest: {manifest}", 1)
    text = text.replace("min_patients: 10", "min_patients: 1").replace("accelerator: auto", "accelerator: cpu")
    text = text.replace("max_level: STATISTICS", f"max_level: {level}").replace("cache: null", "cache: cache")
    (folder / SETTINGS).write_text(text)
    return SiteHome.open(folder)


def two_manifests(folder: Path, images: int = 16) -> dict[str, Path]:
    """Of two simulated hospitals, and of both under the name `all`."""
    manifest = Phantoms(sites=2, images_per_site=images).write(folder, 16)
    return split(manifest) | {"all": manifest}


def accept(home: SiteHome, recipe: SharedRecipe) -> None:
    propose(home, Proposal(recipe.command, recipe.text))
    approve(home, recipe.digest)


def request(word: str, digest: str = "", message: Message | None = None, **more: Any) -> Request:
    fields = {"site": NAMES[0], "word": word, "message": message or Empty(), "turn": TURN, "recipe": digest}
    return Request(**{**fields, "run": "a_run", **more})  # type: ignore[arg-type]


def proposal(recipe: SharedRecipe) -> Request:
    return request(PROPOSE, recipe.digest, Proposal(recipe.command, recipe.text))


def asked(host: SiteHost, request: Request) -> Answer:
    """Through bytes."""
    return answer_of(host.handle(request_bytes(request)), request.site, kinds_of_messages())


def declined(host: SiteHost, request: Request) -> str:
    answer = asked(host, request)
    assert isinstance(answer, Refusal), answer
    return answer.reason


@dataclass
class ByHosts:
    """A transport to hosts."""

    homes: Mapping[str, SiteHome]
    killed: Sequence[str] = ()
    """Words; before each request for one of them the site is killed and started again."""
    hosts: dict[str, SiteHost] = field(default_factory=dict)

    def names(self) -> Sequence[str]:
        return list(self.homes)

    def ask(self, requests: Iterable[Request], deadline: float | None = None) -> Iterator[Answer]:
        for request in requests:
            if request.word in self.killed or request.site not in self.hosts:
                self.hosts[request.site] = SiteHost(self.homes[request.site])
            yield asked(self.hosts[request.site], request)

    def flush(self, names: Iterable[str]) -> None:
        pass


def train_apart(out: Path, transport: ByHosts, command: str, *words: str, resume: bool = False) -> Path:
    """A run at a server that has no image."""
    read = recipe(command, *words)
    with RunFolder(out, read.text, resume, shared=SharedRecipe.of(command, read.text).digest) as run:
        server_of(command)(run, transport, read.build())
    return out


def train_together(out: Path, manifest: Path, command: str, *words: str) -> Path:
    """The same in one process that has all images."""
    read = recipe(command, "--data.manifest", str(manifest), "--data.cache", str(out.parent / "cache"), *words)
    with RunFolder(out, read.text) as run:
        stage_of(command)(run=run, **read.build())
    return out
