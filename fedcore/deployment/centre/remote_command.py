"""`fedpretrain STAGE ... --at DEPLOYMENT`: a command whose sites are hospitals on machines of their own."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedcore.config.recipe import Recipe, read_recipe
from fedcore.config.shared_recipe import SharedRecipe
from fedcore.config.stages import QUERIES, STAGES, stage_of
from fedcore.config.trust import trusted_packages
from fedcore.deployment.centre.folder import COORDINATOR, Centre
from fedcore.deployment.centre.job_folder import JobFolder
from fedcore.deployment.centre.supervise import Supervisor
from fedcore.errors import InputError
from fedcore.files.writing import write_atomically
from fedcore.runs.communication import RoundRecord
from fedcore.runs.folder import RunFolder
from fedcore.runs.progress import Progress
from fedcore.server.rounds import Rounds


def train_at(stage: str, words: Sequence[str], deployment: str, names: Sequence[str] | None) -> Recipe:
    """Runs a stage at the sites of a deployment, or continues it.

    Raises:
        InputError: Recipe, folder, deployment or sites must be corrected.
    """
    recipe = read_recipe(stage_of(stage), stage, words)
    built = recipe.build()
    rounds: Rounds = built["rounds"]
    shared = SharedRecipe.of(stage, recipe.text)
    out = recipe.out.absolute()
    centre = Centre.open(Path(deployment))
    sites = chosen_sites(centre, names)
    with RunFolder(out, recipe.text, recipe.resume, shared=shared.digest) as run:
        run.prepare()
    arguments = {"out": str(out), "trust": list(trusted_packages()), "folder": str(Path.cwd())}

    def new_folder() -> JobFolder:
        folder = JobFolder.create(centre.jobs / uuid.uuid4().hex[:12], stage, sites, arguments)
        write_atomically(folder.path / "recipe.yaml", recipe.text.encode())
        return folder

    record = RunFolder(out)
    with Progress(rounds.count, len(record.rounds())) as progress:
        supervise(centre, new_folder, sites, record, progress, rounds.min_sites)
    return recipe


def query_at(words: Sequence[str], deployment: str, names: Sequence[str] | None) -> int:
    """Asks the sites of a finished run, as `probe`, `evaluate` and `generate audit` do; returns the exit code.

    Raises:
        InputError: It is no such command, or its arguments, the run, deployment or sites must be corrected.
    """
    command = next((name for name in QUERIES if list(words[: len(name.split())]) == name.split()), None)
    if command is None:
        raise InputError(f"--at is an option of {', '.join([*STAGES, *QUERIES])} and run, not of {words[0]!r}")
    rest = list(words[len(command.split()) :])
    if not rest or rest[0].startswith("-"):
        raise InputError(f"{command} needs the folder of a run")
    centre, run = Centre.open(Path(deployment)), RunFolder(Path(rest[0]))
    run.finished()
    trained_at = [name for name in chosen_sites(centre, names) if name in run.about().get("sites", {})]
    arguments = {"words": rest, "trust": list(trusted_packages()), "folder": str(Path.cwd())}

    def new_folder() -> JobFolder:
        return JobFolder.create(centre.jobs / uuid.uuid4().hex[:12], command, trained_at, arguments)

    with Progress(0) as progress:
        return supervise(centre, new_folder, trained_at, run, progress, len(trained_at))


def supervise(
    centre: Centre, new_folder: Callable[[], JobFolder], sites: Sequence[str], run: RunFolder, progress: Progress,
    least: int,
) -> int:  # fmt: skip
    """Sees a command through, prints what the server printed at its end, and returns its exit code."""
    from fedcore.deployment.flare.jobs import connected

    shown = [len(run.rounds())]

    def show() -> None:
        records = run.rounds()
        for record in records[shown[0] :]:
            progress.finished(RoundRecord.of(record))
        shown[0] = max(shown[0], len(records))

    with connected(COORDINATOR, centre.admin_kit) as engine:
        result: Mapping[str, Any] = Supervisor(
            engine, new_folder, sites, lambda: len(run.rounds()), show, say=progress.say, least=least
        ).run()
    print(result.get("text", ""), end="")
    return int(result.get("code", 0))


def chosen_sites(centre: Centre, names: Sequence[str] | None) -> list[str]:
    """Signed sites of the deployment in the order of their names, all or those that were named."""
    signed = [name for name, site in centre.sites().items() if site.takes_part]
    if unknown := [name for name in names or () if name not in signed]:
        raise InputError(f"{unknown[0]!r} is no signed site of {centre.name}; it has {', '.join(signed) or 'none'}")
    found = [name for name in signed if names is None or name in names]
    if not found:
        raise InputError(f"{centre.name} has no site yet; invite one with: fedpretrain deploy invite")
    return found
