"""`fedpretrain run ROAD`: the steps of a project in order, each reading what earlier ones left.

A road is a YAML of steps, each a command as it would be typed, with `{NAME}` for the folder of an earlier step and
`{here}` for its own:

    shared: {data.manifest: my.csv, data.size: 64}      # of every step that trains
    steps:
      encoder: {do: pretrain simclr, rounds.count: 20}
      scratch: {do: finetune classify, each: {label_fraction: [0.01, 0.1]}}
      pretrained: {do: finetune classify, start: "{encoder}", each: {label_fraction: [0.01, 0.1]}}

A step whose words, recipe, images and earlier steps are those of last time is not repeated; where one of them changed
it is done anew in another folder, and the old one stays. Interrupted steps go on from their last round.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from fedcore.cli import STAGES, dispatch
from fedcore.data.cache import default_folder, open_cache
from fedcore.data.content import Memo, key_of
from fedcore.data.manifest import read_manifest
from fedcore.errors import Faults, InputError
from fedcore.files import require_writable, write_json
from fedcore.recipes import find

LEDGER, REPORT = "road.json", "report.html"
USAGE = """usage: fedpretrain run ROAD [--out FOLDER] [--KEY VALUE ...]

Does the steps of a road in order, leaves out those already done, and writes one report.
--KEY VALUE overrides what is `shared`: --data.manifest my.csv"""
_WORDS = {"do", "each", "after"}
_NAMED = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Step:
    """One command; `words` still name earlier steps."""

    name: str
    words: tuple[str, ...]
    after: tuple[str, ...]
    """Steps that it needs without naming their folders, such as the audit of a set."""

    @property
    def stage(self) -> str | None:
        """The training command, if it is one."""
        return _stage(self.words)

    @property
    def needs(self) -> list[str]:
        return [*dict.fromkeys(n for word in self.words for n in _NAMED.findall(word) if n != "here"), *self.after]


def command(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    path = find(arguments[0])
    pairs = _pairs(arguments[1:])
    out = Path(pairs.pop("out", f"checkpoints/{path.stem}"))
    require_writable(out)
    return Road(out).run(read_road(path, pairs))


def read_road(path: Path, overrides: Mapping[str, str]) -> list[Step]:
    """The steps of a file, one for each combination of what stands under `each`.

    Raises:
        Faults: All that is wrong with it.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as e:
        raise InputError(f"{path} cannot be read as YAML ({type(e).__name__}); see fedpretrain run --help") from e
    if not isinstance(tree, dict) or not isinstance(tree.get("steps"), dict) or tree.keys() - {"shared", "steps"}:
        raise InputError(f"{path} is no road: it must hold `steps`, by name, and may hold `shared`, and nothing else")
    faults = [f"{name}: a step is a mapping with `do`, a command" for name, step in tree["steps"].items()
              if not isinstance(step, dict) or not isinstance(step.get("do"), str)]  # fmt: skip
    if faults:
        raise Faults(str(path), faults)
    shared: dict[str, Any] = {**(tree.get("shared") or {}), **overrides}
    steps = [step for name, about in tree["steps"].items() for step in _steps(str(name), about, shared)]
    known: set[str] = set()
    for step in steps:
        faults += [f"{step.name}: no step before it is called {need!r}" for need in step.needs if need not in known]
        known.add(step.name)
    if faults:
        raise Faults(str(path), faults)
    return steps


def _steps(name: str, about: Mapping[str, Any], shared: Mapping[str, Any]) -> Iterator[Step]:
    own = {key: value for key, value in about.items() if key not in _WORDS}
    each = about.get("each") or {}
    after = about.get("after") or []
    for values in product(*each.values()):
        chosen = dict(zip(each, values, strict=True))
        trains = _stage(about["do"].split())
        settings = (dict(shared) if trains else {}) | own | chosen
        words = [*about["do"].split(), *(w for k, v in settings.items() for w in (f"--{k}", _word(v)))]
        title = "_".join([name, *map(str, values)])
        yield Step(title, tuple(words), tuple([after] if isinstance(after, str) else after))


def _stage(words: Sequence[str]) -> str | None:
    return next((name for name in STAGES if list(words[: len(name.split())]) == name.split()), None)


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _pairs(words: Sequence[str]) -> dict[str, str]:
    if len(words) % 2 or any(not word.startswith("--") for word in words[::2]):
        raise InputError(f"run takes a road and pairs of --KEY VALUE\n{USAGE}")
    return {key.removeprefix("--"): value for key, value in zip(words[::2], words[1::2], strict=True)}


@dataclass(frozen=True)
class Road:
    """Does steps under one folder, whose ledger holds those that are done, by the names of their own folders."""

    folder: Path

    def run(self, steps: Sequence[Step]) -> int:
        """0, or 2 where a step failed; what needs it is left out, and all else is done."""
        digests: dict[str, str] = {}
        folders: dict[str, Path] = {}
        failed: dict[str, str] = {}
        for step in steps:
            if lacking := [need for need in step.needs if need not in folders]:
                failed[step.name] = f"left out, since {' and '.join(lacking)} failed"
                continue
            digest = _digest(step, digests)
            place = self.folder / f"{step.name}-{digest[:6]}"
            try:
                self._do(step, place, folders)
            except InputError as e:
                failed[step.name] = str(e)
                continue
            digests[step.name], folders[step.name] = digest, place
        self._report(steps, folders)
        for name, reason in failed.items():
            print(f"\n{name}: {reason}")
        return 2 if failed else 0

    def _do(self, step: Step, place: Path, folders: Mapping[str, Path]) -> None:
        if place.name in self._ledger():
            print(f"  {step.name:<40} done before")
            return
        known = {name: str(folder) for name, folder in folders.items()} | {"here": str(place)}
        words = [_NAMED.sub(lambda found: known[found[1]], word) for word in step.words]
        if step.stage:
            words += ["--out", str(place), "--resume", "true"]
        begun = time.perf_counter()
        with timed(step.name):
            dispatch(words[0], words[1:])
        about = {"step": step.name, "words": list(step.words), "seconds": round(time.perf_counter() - begun, 1)}
        write_json(self.folder / LEDGER, self._ledger() | {place.name: about})

    def _ledger(self) -> dict[str, Any]:
        path = self.folder / LEDGER
        if not path.exists():
            return {}
        try:
            ledger: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as e:
            raise InputError(f"{path} is damaged; remove it, and every step is looked at again") from e
        return ledger

    def _report(self, steps: Sequence[Step], folders: Mapping[str, Path]) -> None:
        from fedcore.report import write_comparison

        if runs := [folders[step.name] for step in steps if step.stage and step.name in folders]:
            print(f"\nreport: {write_comparison(runs, self.folder / REPORT)}")


def _digest(step: Step, digests: Mapping[str, str]) -> str:
    """Of the words, with the digests of steps in place of their names, of the recipe and of the images."""
    words = [_NAMED.sub(lambda found: digests.get(found[1], "here"), word) for word in step.words]
    words += [digests[name] for name in step.after]
    if step.stage:
        recipe = step.words[len(step.stage.split())]
        words.append(find(recipe).read_text(encoding="utf-8"))
    manifests = [value for key, value in zip(step.words, step.words[1:], strict=False) if key == "--data.manifest"]
    words += [_content(Path(path)) for path in manifests if path != "phantom" and not _NAMED.search(path)]
    return hashlib.sha256("\n".join(words).encode()).hexdigest()


def _content(manifest: Path) -> str:
    """Of the rows and every file they name; files that did not change are not read again."""
    folder = default_folder()
    with open_cache(folder):
        memo = Memo(folder / "known.json")
        found = key_of([memo.digest(row) for row in read_manifest(manifest).rows], manifest.read_bytes())
        memo.save()
    return found


@contextlib.contextmanager
def timed(told: str) -> Iterator[None]:
    """One line a step: what is done, and then its seconds; the step's own lines are not shown."""
    begun = time.perf_counter()
    print(f"  {told:<46}", end="", flush=True)
    with contextlib.redirect_stdout(io.StringIO()):
        yield
    print(f"{time.perf_counter() - begun:5.0f} s", flush=True)
