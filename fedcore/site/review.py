"""What a person sees of a recipe before it is approved: whose code it runs, and what it would send."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fedcore.algorithms.base import Visitor
from fedcore.algorithms.properties import message_types
from fedcore.algorithms.task import Task
from fedcore.config.shared_recipe import SHOWN, SharedRecipe
from fedcore.config.stages import task_maker
from fedcore.errors import InputError, Refused
from fedcore.messages.agreement import Agreement, Facts
from fedcore.messages.message import Message, hints
from fedcore.messages.request import EVALUATE, FACTS, TRAIN
from fedcore.messages.reveals import Reveals
from fedcore.privacy.policy import Policy
from fedcore.runs.environment import version
from fedcore.site.approval import last_approved
from fedcore.site.home import SiteHome
from fedcore.site.own_data import OwnData
from fedcore.site.run.trial import Traffic, traffic
from fedcore.site.runtime import Workplace


@dataclass(frozen=True)
class Item:
    """One field of a message that the site would send."""

    word: str
    """The request that it answers."""
    message: str
    field: str
    reveals: Reveals
    recipients: str


@dataclass(frozen=True)
class Review:
    """All of it comes from the recipe, from the site's settings and from its own images."""

    recipe: SharedRecipe
    policy: Policy
    classes: Mapping[str, str]
    """Import path -> package and version."""
    rounds: int
    items: tuple[Item, ...]
    metrics: Mapping[str, tuple[str, ...]]
    """By request, the names of the metrics that may leave."""
    traffic: Traffic | None
    """Of one round, estimated; None where the model cannot be built from this site's images alone."""
    note: str
    """Why it cannot."""
    previous: SharedRecipe | None
    """The recipe of the same command that was approved last."""

    @property
    def level(self) -> Reveals:
        """The highest level of what is sent in training and between rounds."""
        sent = [item.reveals for item in self.items if item.word in (FACTS, TRAIN, EVALUATE)]
        metrics = any(names for word, names in self.metrics.items() if word in (TRAIN, EVALUATE))
        scalars = Reveals.STATISTICS if metrics and self.policy.allows_metrics else Reveals.WEIGHTS
        return max([*sent, scalars], default=Reveals.WEIGHTS)

    @property
    def changes(self) -> list[tuple[str, str, str]]:
        """(key, value in the previous recipe, value now), of keys that differ."""
        if self.previous is None:
            return []
        before, now = flat(self.previous.tree), flat(self.recipe.tree)
        keys = [*now, *(key for key in before if key not in now)]
        return [
            (key, before.get(key, "absent"), now.get(key, "absent")) for key in keys if before.get(key) != now.get(key)
        ]


def review(home: SiteHome, recipe: SharedRecipe) -> Review:
    """Builds the recipe as the site would, with its settings and its images, and looks at what it would send.

    Raises:
        InputError: The site cannot run it: the settings are incomplete, a class is not installed or not allowed, it
            would send more than the policy allows, or the images do not fit.
    """
    settings = home.settings()
    built = recipe.build(settings.recipe_values(home.path), settings.trust)
    task: Task = task_maker(recipe.command)(built)
    place, note = _place(task, OwnData(settings.name, task, built["data"], settings.policy), settings.policy, recipe)
    words: Mapping[str, Visitor] = place.words if place else {TRAIN: task.algorithm}
    items = dict.fromkeys([*_facts(), *(item for word in words for item in _items(word, words[word]))])
    if place and place.local:
        items |= {Item(TRAIN, "weights", name, level, "server"): None for name, level in place.local.levels.items()}
    return Review(
        recipe, settings.policy, {path: _package(path) for path in recipe.class_paths},
        built["rounds"].count, tuple(items),
        {word: tuple(sorted(of.names)) for word, of in place.metrics.items()} if place else {},
        _traffic(task, place, settings.name, settings.policy) if place else None, note,
        last_approved(home, recipe.command, recipe.digest),
    )  # fmt: skip


def _place(task: Task, data: OwnData, policy: Policy, recipe: SharedRecipe) -> tuple[Workplace | None, str]:
    """What the site would work with if it were alone; or why that cannot be built, though with others it might."""
    try:
        facts = data.facts()
    except Refused as e:
        raise InputError(f"recipe {recipe.digest[:SHOWN]} cannot run at this site: {e}") from e
    alone = Agreement(facts.classes, facts.channels, facts.size, (data.name,), facts.mask_classes)
    cannot = f"recipe {recipe.digest[:SHOWN]} cannot be approved at this site"
    try:
        for kind in message_types(task.algorithm):
            policy.foresee(kind)
    except InputError as e:
        raise InputError(f"{cannot}: {e}") from e
    try:
        return data.settle(alone), ""
    except Refused as e:  # by the policy
        raise InputError(f"{cannot}: {e}") from e
    except InputError as e:  # such as a classifier of one class
        return None, str(e)


def _traffic(task: Task, place: Workplace, name: str, policy: Policy) -> Traffic | None:
    if not len(place.train):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return traffic(task, place, name, policy)


def _facts() -> Iterator[Item]:
    yield from _fields(FACTS, Facts)


def _items(word: str, visitor: Visitor) -> Iterator[Item]:
    for kind in message_types(visitor):
        yield from _fields(word, kind)


def _fields(word: str, kind: type[Message], prefix: str = "") -> Iterator[Item]:
    """Of a kind of message and of those inside it, as they declare them."""
    inside = {name: of for name, of in hints(kind).items() if isinstance(of, type) and issubclass(of, Message)}
    for field in dataclasses.fields(kind):
        if field.name in inside:
            yield from _fields(word, inside[field.name], f"{prefix}{field.name}/")
        elif "reveals" in field.metadata:
            level = Reveals(field.metadata["reveals"])
            yield Item(word, kind.__name__, f"{prefix}{field.name}", level, kind.recipients)


def _package(path: str) -> str:
    """Of an import path, with its version if it has one."""
    top = path.partition(".")[0]
    if top in ("fedcore", "fedgen", "fedssl", "fedtune"):
        return f"fedpretrain {version('fedpretrain')}"
    found = version(top)
    return f"{top} {found}" if found else top


def flat(tree: Any, prefix: str = "") -> dict[str, str]:
    """Values by full key, without the words `class_path` and `init_args`."""
    if not isinstance(tree, dict):
        return {prefix.removesuffix("."): _shown(tree)}
    found: dict[str, str] = {}
    for key, value in tree.items():
        inside = {"init_args": prefix, "class_path": prefix.removesuffix(".")}.get(key, f"{prefix}{key}.")
        found |= flat(value, inside)
    return found


def _shown(value: Any) -> str:
    """As in YAML."""
    return {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))
