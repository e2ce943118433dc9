"""The folder of a run: what was asked, where it ran, how it went, and what to resume from.

recipe.yaml        the recipe with every value resolved
environment.json   versions, commit, hardware
run.json           what kind of run, its sites and sizes, how it ended
rounds.jsonl       a line a round: seconds, bytes per kind, metrics per site
logs/              Lightning's CSV and TensorBoard logs
state/             what to resume from (fedcore.checkpoint)
sites/<site>/      what belongs to a site: its audit file, its errors, what it keeps to be looked at on its page
encoder/           the result
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedcore.checkpoint import Checkpoint
from fedcore.environment import environment
from fedcore.errors import Faults, InputError
from fedcore.files import explained, require_writable, write_atomically, write_json
from fedcore.ledger import RoundRecord
from fedcore.reading import json_of, text_of, yaml_of

# A resumed run may differ in these keys, which have no influence on its numbers.
_FREE = ("out", "resume", "config", "data.cache", "workers")


@dataclass
class RunFolder:
    """Nothing is written before `begin`, so bad input leaves no half-made folder."""

    path: Path
    recipe: str = ""
    """The resolved recipe, YAML."""
    resume: bool = False
    """Go on with the run that is there, if there is one."""
    asked: Mapping[str, Any] = field(default_factory=dict)
    """What was asked beside the recipe, in run.json; a resumed run must ask the same."""

    def prepare(self) -> None:
        """Checks, before anything expensive is done, that the run can be written or resumed.

        Raises:
            InputError: The folder is in use, cannot be written, or holds a run of another recipe.
        """
        require_writable(self.path)
        if not self.path.exists() or not any(self.path.iterdir()):
            return
        if not (self.path / "run.json").exists():
            raise InputError(f"{self.path} is not empty and holds no run; choose another folder with --out")
        if self._came_to_nothing():
            return
        if not self.resume:
            raise InputError(
                f"{self.path} holds a run already; go on with it by --resume true, or choose another folder with --out"
            )
        self._require_same_recipe()

    def begin(self, about: dict[str, Any]) -> Checkpoint:
        """Makes the folder, or opens it again, and returns where the run stands.

        Raises:
            InputError: The images are others, or what is there is damaged; nothing is changed then.
        """
        checkpoint = Checkpoint.open(self.path / "state")
        fingerprint = self.about().get("data") if checkpoint.rounds else about.get("data")
        if fingerprint != about.get("data"):
            raise InputError(
                f"the images have changed since {self.path} was begun; an exact resume needs the same data"
            )
        recorded = self.rounds()
        if len(recorded) > checkpoint.rounds + 1:  # a killed run leaves one line more than it committed
            raise InputError(
                f"{self.path} records {len(recorded)} rounds, but its state/ holds {checkpoint.rounds}; "
                "restore state/ from a backup, or start the run again in another folder"
            )
        write_atomically(self.path / "recipe.yaml", self.recipe.encode())
        write_json(self.path / "environment.json", environment())
        write_json(self.path / "run.json", about | dict(self.asked) | {"status": "running"})
        kept = [json.dumps(r) + "\n" for r in recorded if r["round"] < checkpoint.rounds]
        write_atomically(self.path / "rounds.jsonl", "".join(kept).encode())
        return checkpoint

    def append(self, record: RoundRecord) -> None:
        line = json.dumps(record.as_dict()) + "\n"
        path = self.path / "rounds.jsonl"
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(line)
        except OSError as e:
            raise explained(e, path, len(line)) from e

    def close(self, status: str, **more: Any) -> None:
        """Notes how the run ended: finished, failed or stopped."""
        write_json(self.path / "run.json", self.about() | {"status": status, **more})

    def broke(self, error: BaseException, **more: Any) -> None:
        """Notes that an error ended the run, or Ctrl-C."""
        status = "stopped" if isinstance(error, KeyboardInterrupt) else "failed"
        self.close(status, error=_safe(error), **more)

    def about(self) -> dict[str, Any]:
        """What `run.json` says; nothing where there is none.

        Raises:
            InputError: It is damaged.
        """
        path = self.path / "run.json"
        with _intact(path):
            content: dict[str, Any] = {**json_of(text_of(path))} if path.exists() else {}
        return content

    def rounds(self) -> list[dict[str, Any]]:
        """The rounds on record; a line cut short by a killed process is left out.

        Raises:
            InputError: Another line is damaged.
        """
        path = self.path / "rounds.jsonl"
        with _intact(path):
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
            records = [json_of(line) for line in lines if line.endswith("}\n")]
            if not all("round" in record for record in records):
                raise ValueError("a line names no round")
        return records

    def site(self, name: str) -> Path:
        """The site's own folder."""
        return self.path / "sites" / name

    def _came_to_nothing(self) -> bool:
        """A run that ended before its first whole round: mended, it may begin anew in the same folder."""
        ended = self.about().get("status") in ("failed", "stopped")
        return ended and not self.rounds() and not (self.path / "state" / "state.json").exists()

    def _require_same_recipe(self) -> None:
        path = self.path / "recipe.yaml"
        with _intact(path):
            old = essence(path.read_text(encoding="utf-8"))
        new = essence(self.recipe) | _flat(dict(self.asked))
        old |= _flat({key: value for key, value in self.about().items() if key in self.asked})
        differing = [
            f"{key}: {old.get(key, 'absent')} then, {new.get(key, 'absent')} now"
            for key in sorted(old.keys() | new.keys())
            if old.get(key) != new.get(key)
        ]
        if differing:
            raise Faults(
                f"{self.path} was begun with another recipe",
                differing,
                "Resume with the recipe it has, or choose another --out.",
            )


def essence(recipe: str) -> dict[str, Any]:
    """What of a resolved recipe has an influence on a run's numbers, by full key."""
    flat = _flat({**(yaml_of(recipe) or {})})
    return {key: value for key, value in flat.items() if not key.startswith(_FREE)}


def _safe(error: BaseException) -> str:
    """What the run's page may say of an error: ours are written to be shown, others are named by kind."""
    return str(error) if isinstance(error, InputError) else type(error).__name__


@contextmanager
def _intact(path: Path) -> Iterator[None]:
    """What goes wrong while a file of the run is read becomes an InputError that names it."""
    try:
        yield
    except (OSError, ValueError, TypeError) as e:
        raise InputError(
            f"{path} is missing or damaged ({type(e).__name__}); restore it from a backup, or choose another --out"
        ) from e


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix.removesuffix("."): tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.")
    return flat
