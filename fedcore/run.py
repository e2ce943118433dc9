"""The folder of a run: what was asked, where it ran, how it went, and what to resume from.

recipe.yaml        the recipe with every value resolved
environment.json   versions, commit, hardware
run.json           what kind of run, its sites and sizes, how it ended
rounds.jsonl       a line a round: seconds, bytes per kind, metrics per site
scores.json        of a run that measures: its scores
SHA256SUMS         of a finished run: checksums of the files above and of state/state.json
logs/              Lightning's CSV and TensorBoard logs
state/             what to resume from (fedcore.checkpoint)
sites/<site>/      what belongs to a site: its audit file, its errors, what it keeps to be looked at on its page
encoder/           the result
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from fedcore.checkpoint import Checkpoint, Recorded
from fedcore.checksums import SUMS, noted_in, require_sums, write_sums
from fedcore.environment import environment
from fedcore.errors import Faults, InputError
from fedcore.files import append, json_bytes, require_no_links, require_writable, write_atomically, write_json
from fedcore.ledger import RoundRecord
from fedcore.lock import holds_nothing, locked
from fedcore.reading import json_of, text_of, yaml_of

ENDED = ("finished", "failed", "stopped")
KEPT = ("recipe.yaml", "environment.json", "rounds.jsonl", "scores.json", "state/state.json")
"""What a finished run has beside run.json, as far as it is there, and nobody writes any more."""
_CHANGED = (
    "copy the run's folder anew, or resume the run until it has finished; what its recipe says is changed by options "
    "of the command, not in the file"
)
# A resumed run may differ in these keys, which have no influence on its numbers.
_FREE = ("out", "resume", "config", "data.cache", "workers")


@dataclass
class RunFolder:
    """Nothing is written before `begin`, so bad input leaves no half-made folder.

    From `prepare` (of a new run: from `begin`) until the run has ended no other process can write to it. As a context
    manager it notes an error that ends the run, whenever that is.
    """

    path: Path
    recipe: str = ""
    """The resolved recipe, YAML."""
    resume: bool = False
    """Go on with the run that is there, if there is one."""
    asked: Mapping[str, Any] = field(default_factory=dict)
    """What was asked beside the recipe, in run.json; a resumed run must ask the same."""
    _held: ExitStack = field(default_factory=ExitStack, init=False, repr=False, compare=False)
    _begun: bool = field(default=False, init=False, repr=False, compare=False)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._held, suppress(InputError):  # a disk that is full takes no note; the first error is told
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
        told = {key: value for key, value in about.items() if key not in ("recorded", "memories")} | dict(self.asked)
        write_json(self.path / "run.json", told | {"status": "running"})
        committed = checkpoint.recorded.size if checkpoint.recorded else 0
        write_atomically(self._record, _content(self._record)[:committed])
        self._begun = True
        return checkpoint

    def append(self, record: RoundRecord) -> None:
        append(self._record, json.dumps(record.as_dict()) + "\n", durable=True)

    def recorded(self) -> Recorded:
        """How much of the rounds is on record, to be committed."""
        return Recorded.of(_content(self._record))

    def close(self, status: str, **more: Any) -> None:
        """Notes how the run stands: trained; or how it ended (finished, failed or stopped), and lets it go."""
        told = self.about() | {"status": status, **more}
        if status == "finished":
            memories = sorted(Checkpoint.open(self.path / "state").sites)
            told |= {"recorded": asdict(self.recorded()), "memories": memories}
            kept = [name for name in KEPT if (self.path / name).exists()]
            write_sums(self.path, kept, {"run.json": json_bytes(told)})
        write_json(self.path / "run.json", told)
        if status in ENDED:
            self._held.close()

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

    def finished(self) -> dict[str, Any]:
        """What `run.json` of a finished run says, once it is known that all of `KEPT` is as the run left it.

        Raises:
            InputError: The run has not finished, what it says of itself is missing or has changed, or a part of it is
                a symbolic link.
        """
        require_no_links(self.path)
        if (status := self.about().get("status", "missing")) != "finished":
            raise InputError(f"{self.path} holds a run that is {status}; resume it until it has finished")
        noted = noted_in(self.path, f"so the run cannot be checked; {_CHANGED}")
        # state/ may be removed once the run has finished.
        wanted = {"run.json", "recipe.yaml", *noted} - {"state/state.json"}
        kept = [name for name in ("run.json", *KEPT) if name in wanted or (self.path / name).exists()]
        require_sums(self.path, kept, _CHANGED)
        return self.about()

    def memories(self) -> Checkpoint:
        """What the sites of a finished run keep to themselves.

        Raises:
            InputError: As `finished`; or state/ has gone, and with it what a site kept.
        """
        about, checkpoint = self.finished(), Checkpoint.open(self.path / "state")
        with _intact(self.path / "run.json"):
            gone = set(about.get("memories", ())) - checkpoint.sites.keys()
        if gone:
            raise InputError(
                f"{self.path / 'state'} is missing, and with it what {min(gone)} keeps to itself; {_CHANGED}"
            )
        return checkpoint

    def rounds(self) -> list[dict[str, Any]]:
        """The rounds on record; a line cut short by a killed process is left out.

        Raises:
            InputError: Another line is damaged, or what was committed has been lost or changed.
        """
        self.require_committed()
        with _intact(self._record):
            content = _content(self._record)
            records = [json_of(line.decode()) for line in content.splitlines(keepends=True) if line.endswith(b"}\n")]
            if not all("round" in record for record in records):
                raise ValueError("a line names no round")
        return records

    def require_committed(self) -> None:
        """Raises InputError where the record of rounds lacks lines that were committed, or has others."""
        committed = self.committed()  # first: a run that goes writes it last
        with _intact(self._record):
            content = _content(self._record)
        if committed and not committed.fits(content):
            raise InputError(
                f"{self._record} is not as it was committed: lines were lost or changed; "
                "restore it from a backup, or choose another --out"
            )

    def committed(self) -> Recorded | None:
        """How much of the record of rounds counts, as the state says, or a finished run; None where none does.

        Raises:
            InputError: State or run.json are damaged.
        """
        if recorded := Checkpoint.open(self.path / "state").recorded:
            return recorded
        told = self.about().get("recorded")
        with _intact(self.path / "run.json"):
            return Recorded(**told) if told else None

    @property
    def _record(self) -> Path:
        return self.path / "rounds.jsonl"

    def site(self, name: str) -> Path:
        """The site's own folder."""
        return self.path / "sites" / name

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
        if self._came_to_nothing():
            return
        if not self.resume:
            raise InputError(
                f"{self.path} holds a run already; go on with it by --resume true, or choose another folder with --out"
            )
        self._require_same_recipe()

    def _committed_of(self, data: Any) -> Checkpoint:
        """Where the run stands; raises InputError where it cannot be gone on with by `data`, a fingerprint."""
        checkpoint = Checkpoint.open(self.path / "state")
        fingerprint = self.about().get("data") if checkpoint.rounds else data
        if fingerprint != data:
            raise InputError(
                f"the images have changed since {self.path} was begun; an exact resume needs the same data"
            )
        recorded = self.rounds()
        uncommitted = 0 if self.about().get("status") == "finished" else 1  # a line that a killed run leaves
        if len(recorded) > checkpoint.rounds + uncommitted:
            raise InputError(
                f"{self.path} records {len(recorded)} rounds, but its state/ holds {checkpoint.rounds}; "
                "restore state/ from a backup, or start the run again in another folder"
            )
        return checkpoint

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


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


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
