"""The folder of a run: its recipe, environment and result, and the state to resume from.

recipe.yaml        the recipe with all values
environment.json   versions, commit, hardware
run.json           kind of run, sites, sizes, how it ended
rounds.jsonl       one line per round: seconds, bytes by kind, metrics by site
scores.json        scores, of a run that measures
SHA256SUMS         of a finished run: checksums of the files above and of state/state.json
logs/              Lightning's CSV and TensorBoard logs
state/             state to resume from (fedcore.runs.checkpoint)
sites/<site>/      files that stay at a site: audit log, errors, figures for its report
encoder/           the result
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Any

from fedcore.errors import InputError, InputErrors
from fedcore.files.checksums import SUMS, write_sums
from fedcore.files.lock import holds_nothing, locked
from fedcore.files.reading import parse_yaml
from fedcore.files.writing import append, json_bytes, require_no_links, require_writable, write_atomically, write_json
from fedcore.runs.checkpoint import Checkpoint, Recorded
from fedcore.runs.communication import RoundRecord
from fedcore.runs.environment import environment
from fedcore.runs.record import KEPT, RunRecord, content_of, intact

ENDED = ("finished", "failed", "stopped")
# A resumed run may differ in these keys, which have no influence on its numbers.
_FREE = ("out", "resume", "config", "data.cache", "workers")
# It may differ in this one down to the rounds that are done: whether they depend on it, `Job` knows.
_LENGTH = "rounds.count"


@dataclass
class RunFolder(RunRecord):
    """Nothing is written before `begin`, so bad input leaves no half-made folder.

    From `prepare` (of a new run: from `begin`) until the run has ended no other process can write to it. As a context
    manager it notes an error that ends the run, whenever that is.
    """

    recipe: str = ""
    """The resolved recipe, YAML."""
    resume: bool = False
    """Continue the run in this folder, if there is one."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options in addition to the recipe, in run.json; a resumed run must have the same."""
    shared: str = ""
    """Digest of the part of the recipe that sites on machines of their own have approved; empty in a simulation."""
    _new_name: str = field(default_factory=lambda: uuid.uuid4().hex[:12], init=False, repr=False, compare=False)
    _held: ExitStack = field(default_factory=ExitStack, init=False, repr=False, compare=False)
    _begun: bool = field(default=False, init=False, repr=False, compare=False)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._held, suppress(InputError):  # a disk that is full takes no note; the first error is reported
            if error and self._begun and self.about().get("status") not in ENDED:
                self.broke(error)

    def prepare(self) -> None:
        """Checks, before anything expensive is done, that the run can be written or resumed.

        Raises:
            InputError: The folder is in use, cannot be written, or holds a run of another recipe.
        """
        self.require_own()
        if not holds_nothing(self.path):
            self._hold()

    def begin(self, about: dict[str, Any]) -> Checkpoint:
        """Makes the folder, or opens it again, and returns where the run stands.

        Raises:
            InputError: Another process writes to it, the images are others, or what is there is damaged; nothing is
                changed then.
        """
        self._hold()
        try:
            checkpoint = self._committed_of(about.get("data"))
        except BaseException:
            self._held.close()
            raise
        (self.path / SUMS).unlink(missing_ok=True)
        write_atomically(self.path / "recipe.yaml", self.recipe.encode())
        write_json(self.path / "environment.json", environment())
        about = {key: value for key, value in about.items() if key not in ("recorded", "memories")} | dict(self.options)
        about |= {"name": self.name}
        write_json(self.path / "run.json", about | {"status": "running"})
        committed = checkpoint.recorded.size if checkpoint.recorded else 0
        write_atomically(self.rounds_path, content_of(self.rounds_path)[:committed])
        self._begun = True
        return checkpoint

    @property
    def name(self) -> str:
        """What sites' audit logs call the run; made at its start and kept when it is resumed."""
        name = self.about().get("name", "")
        return name if isinstance(name, str) and name else self._new_name

    @property
    def digest(self) -> str:
        """Of the recipe that sites run; by default of all that the recipe says about the run's numbers."""
        if self.shared:
            return self.shared
        text = json.dumps(essence(self.recipe), sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    def append(self, record: RoundRecord) -> None:
        append(self.rounds_path, json.dumps(record.as_dict()) + "\n", durable=True)

    def recorded(self) -> Recorded:
        """How much of the rounds is on record, to be committed."""
        return Recorded.of(content_of(self.rounds_path))

    def close(self, status: str, **more: Any) -> None:
        """Notes how the run stands: trained; or how it ended (finished, failed or stopped), and lets it go."""
        about = self.about() | {"status": status, **more}
        if status == "finished":
            counted = Checkpoint.open(self.path / "state").counted
            memories = {site: of.round for site, of in counted.items() if of.keeps}
            about |= {"recorded": asdict(self.recorded()), "memories": memories}
            kept = [name for name in KEPT if (self.path / name).exists()]
            write_sums(self.path, kept, {"run.json": json_bytes(about)})
        write_json(self.path / "run.json", about)
        if status in ENDED:
            self._held.close()

    def broke(self, error: BaseException, **more: Any) -> None:
        """Notes that an error ended the run, or Ctrl-C."""
        status = "stopped" if isinstance(error, KeyboardInterrupt) else "failed"
        self.close(status, error=_safe(error), **more)

    def require_own(self) -> None:
        """Raises InputError where a part of the run is a symbolic link, or cannot be written."""
        require_writable(self.path)
        require_no_links(self.path)

    def _hold(self) -> None:
        """From now on this process alone writes to the folder, which is looked at once more."""
        with ExitStack() as held:
            held.enter_context(locked(self.path))
            self._require_usable()
            self._held.close()
            self._held = held.pop_all()

    def _require_usable(self) -> None:
        self.require_own()
        if holds_nothing(self.path):
            return
        if not (self.path / "run.json").exists():
            raise InputError(f"{self.path} is not empty and holds no run; choose another folder with --out")
        if self._has_no_complete_round():
            return
        if not self.resume:
            raise InputError(
                f"{self.path} already holds a run; continue it with --resume true, or choose another folder with --out"
            )
        self._require_same_recipe()

    def _committed_of(self, data: Any) -> Checkpoint:
        """Where the run stands; raises InputError where it cannot be gone on with by `data`, a fingerprint."""
        checkpoint = Checkpoint.open(self.path / "state")
        fingerprint = self.about().get("data") if checkpoint.rounds else data
        if fingerprint != data:
            raise InputError(f"the images have changed since {self.path} was started; resume with the same images")
        recorded = self.rounds()
        uncommitted = 0 if self.about().get("status") == "finished" else 1  # a line that a killed run leaves
        if len(recorded) > checkpoint.rounds + uncommitted:
            raise InputError(
                f"{self.path} records {len(recorded)} rounds, but its state/ holds {checkpoint.rounds}; "
                "restore state/ from a backup, or start the run again in another folder"
            )
        return checkpoint

    def _has_no_complete_round(self) -> bool:
        """A run that ended before its first complete round: once corrected, it may start again in the same folder."""
        ended = self.about().get("status") in ("failed", "stopped")
        return ended and not self.rounds() and not (self.path / "state" / "state.json").exists()

    def _require_same_recipe(self) -> None:
        path = self.path / "recipe.yaml"
        with intact(path):
            old = essence(path.read_text(encoding="utf-8"))
        new = essence(self.recipe) | _flat(dict(self.options))
        old |= _flat({key: value for key, value in self.about().items() if key in self.options})
        differing = {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)}
        done = Checkpoint.open(self.path / "state").rounds
        if differing == {_LENGTH} and isinstance(new.get(_LENGTH), int) and new[_LENGTH] >= done:
            return
        if differing:
            raise InputErrors(
                f"{self.path} was started with another recipe",
                [f"{key} was {old.get(key, 'absent')}, is now {new.get(key, 'absent')}" for key in sorted(differing)],
                f"Resume with the same recipe (only {_LENGTH} may change, to {max(done, 1)} or more), or choose "
                "another --out.",
            )


def essence(recipe: str) -> dict[str, Any]:
    """What of a resolved recipe has an influence on a run's numbers, by full key."""
    flat = _flat({**(parse_yaml(recipe) or {})})
    return {key: value for key, value in flat.items() if not f"{key}.".startswith(tuple(f"{free}." for free in _FREE))}


def _safe(error: BaseException) -> str:
    """What the run's page may say of an error: ours are written to be shown, others are named by kind."""
    return str(error) if isinstance(error, InputError) else type(error).__name__


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix.removesuffix("."): tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.")
    return flat
