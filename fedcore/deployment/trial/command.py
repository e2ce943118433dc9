"""Coordinator, server and hospitals as processes of their own over TLS on this machine, compared with one process."""

from __future__ import annotations

import csv
import time
from collections.abc import Sequence
from pathlib import Path

import safetensors.torch
import torch

from fedcore.config.arguments import call
from fedcore.config.recipe_files import command_of, find
from fedcore.config.stages import STAGES
from fedcore.data.phantom.phantoms import Phantoms
from fedcore.deployment.centre.folder import COORDINATOR, Centre
from fedcore.deployment.flare.jobs import connected
from fedcore.deployment.hospital.join import join, new_site
from fedcore.deployment.subcommands import require_flare
from fedcore.deployment.trial.processes import free_port, resident, run, wait_until
from fedcore.errors import InputError
from fedcore.files.lock import holds_nothing
from fedcore.messages.reveals import Reveals
from fedcore.site.home import SiteHome
from fedcore.site.settings import SETTINGS, set_data

SMALL = [
    "--data.size", "32", "--rounds.count", "5", "--visit.accelerator", "cpu", "--visit.max_epochs", "1",
    "--visit.batch_size", "16", "--policy.min_patients", "1",
]  # fmt: skip
_START_SECONDS = 120.0


def command(words: Sequence[str]) -> int:
    return int(call(try_deployment, "deploy try", words))


def try_deployment(recipe: str = "moco_shared_bank", sites: int = 2, out: Path = Path("deploy_try")) -> int:
    """Runs five rounds of a recipe at simulated hospitals that are processes of their own, and once in one process.

    Args:
        recipe: Of a stage.
        sites: Number of hospitals.
        out: A new folder for everything.

    Returns:
        0: the weights are equal to the bit; 1: they are not.
    """
    require_flare()
    path = find(recipe)
    stage = command_of(path)
    if stage not in STAGES:
        raise InputError(f"deploy try takes a recipe of {', '.join(STAGES)}, {recipe} is one of {stage}")
    if sites < 2:
        raise InputError(f"sites must be at least 2, got {sites}")
    if not holds_nothing(out):
        raise InputError(f"{out} exists already; remove it, or name another folder with --out")
    begun = time.monotonic()
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    out = out.resolve()
    manifest = Phantoms(sites=sites, images_per_site=40).write(out / "images", 32)
    centre = Centre.init(out / "centre", "localhost", free_port())
    homes = {name: _joined(centre, name, rows) for name, rows in _by_site(manifest, out).items()}
    print(f"{len(homes)} hospitals have joined {centre.host}:{centre.port} ({_since(begun)})", flush=True)
    words = [*stage.split(), recipe, *SMALL]
    remote = [*words, "--out", str(out / "apart"), "--at", str(centre.path)]
    commands = [(["deploy", "serve", str(centre.path)], out / "serve.log")]
    commands += [(["site", "start", "--home", str(home.path)], out / f"{name}.log") for name, home in homes.items()]
    cache = out / "cache"
    with resident(commands, cache):
        with connected(COORDINATOR, centre.admin_kit, _START_SECONDS) as engine:
            missing = f"server or sites did not start within {_START_SECONDS:.0f} s; see the logs in {out}"
            wait_until(lambda: len(engine.seen()) == len(homes), _START_SECONDS, missing)
        print(f"server and sites run ({_since(begun)})", flush=True)
        _propose(remote, homes, cache)
        print(f"every hospital has approved the recipe ({_since(begun)})", flush=True)
        run(remote, cache)
    print(f"5 rounds over TLS are done ({_since(begun)})", flush=True)
    run([*words, "--data.manifest", str(manifest), "--out", str(out / "together")], cache)
    equal, count = _compare(out / "apart", out / "together")
    print(f"{equal} of {count} tensors equal those of one process, to the bit ({_since(begun)})")
    print(f"coordinator     {centre.path}\nhospitals       {', '.join(str(home.path) for home in homes.values())}")
    print(f"runs            {out / 'apart'}, {out / 'together'}\nwhat left       fedpretrain site audit --home "
          f"{next(iter(homes.values())).path}")  # fmt: skip
    return int(equal != count)


def _by_site(manifest: Path, out: Path) -> dict[str, Path]:
    """One manifest for each hospital, with its own rows."""
    with manifest.open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = {}
    for site in dict.fromkeys(row["site"] for row in rows):
        found[site] = out / f"{site}.csv"
        with found[site].open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            for row in rows:
                if row["site"] == site:
                    paths = {key: str(manifest.parent / row[key]) for key in ("image", "mask") if row.get(key)}
                    writer.writerow(row | paths)
    return found


def _joined(centre: Centre, name: str, manifest: Path) -> SiteHome:
    """Invitation, request, signature, kit, as coordinator and hospital would do it."""
    home, request, _ = new_site(centre.invite(name), centre.path.parent / name)
    _, signed = centre.sign(request)
    join(home, signed, centre.fingerprint)
    set_data(home.path, manifest, Reveals.FEATURES)
    settings = home.path / SETTINGS
    text = settings.read_text(encoding="utf-8").replace("min_patients: 10", "min_patients: 1")
    settings.write_text(text.replace("accelerator: auto", "accelerator: cpu"), encoding="utf-8")
    return home


def _propose(words: Sequence[str], homes: dict[str, SiteHome], cache: Path) -> None:
    """The first start of a run proposes its recipe; a person at each site approves it."""
    try:
        run(words, cache)
    except InputError as e:
        if "do not run recipe" not in str(e):
            raise
    for home in homes.values():
        (proposed,) = home.proposed.glob("*.yaml")
        run(["site", "approve", proposed.stem[:12], "--home", str(home.path)], cache)


def _compare(one: Path, other: Path) -> tuple[int, int]:
    """Equal tensors of the servers' last states, and all."""
    states = [sorted(run.glob("state/*/server.safetensors"))[-1] for run in (one, other)]
    ours, theirs = (safetensors.torch.load_file(path) for path in states)
    names = ours.keys() | theirs.keys()
    equal = [name in ours and name in theirs and torch.equal(ours[name], theirs[name]) for name in names]
    return sum(equal), len(names)


def _since(begun: float) -> str:
    return f"{time.monotonic() - begun:.0f} s"
