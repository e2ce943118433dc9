"""Parts of every model card: data sent by the sites, recipe, environment, licence, limits.

Markdown. Everything comes from the run's own record; what the record lacks is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from fedcore.data.preprocess.scaling import Percentiles
from fedcore.files.reading import parse_yaml, read_json
from fedcore.privacy.audit_log import AUDIT_LOG
from fedcore.report.markdown import plain, table
from fedcore.report.private import shorten_paths
from fedcore.report.read.levels import MOST_SENSITIVE, highest_level, meaning
from fedcore.report.read.parse import read_lines
from fedcore.report.units import duration, size
from fedcore.runs.communication import answers, highest
from fedcore.runs.folder import RunFolder

Record = Mapping[str, Any]
"""A line of rounds.jsonl."""


def head(*tags: str) -> str:
    """YAML, as model hubs read it."""
    known = ["medical-imaging", "federated-learning", *tags]
    return f"---\nlibrary_name: fedpretrain\ntags: [{', '.join(known)}]\n# license: not decided, see Licence below\n---"


def data_sent(run: RunFolder) -> str:
    """What the sites had sent when this card was written."""
    rounds = run.rounds()
    level = highest([*rounds, *answers(run.path)])
    visits = [visit for r in rounds for visit in r["sites"].values()]
    up, down = (_per_visit(visits, direction) for direction in ("up", "down"))
    return f"""## Data sent by the sites

{MOST_SENSITIVE}: **{level}** ({meaning(level)}). Per site and round: {up} up, {down} down.
The `audit.jsonl` of each site lists everything that it sent."""


def data_sent_by(folder: Path | None) -> str:
    """What one site has sent, as the audit log in its own folder lists it; without a folder nothing is known."""
    lines = [] if folder is None else read_lines(folder / AUDIT_LOG, [], label=AUDIT_LOG)
    level = highest_level(str(line.get("reveals") or "") for line in lines)
    most = f"{MOST_SENSITIVE}: **{level}** ({meaning(level)}). " if level else ""
    return f"## Data sent by this site\n\n{most}The `audit.jsonl` of the site lists everything that it sent."


def _per_visit(visits: Sequence[Record], direction: str) -> str:
    sizes = [sum(visit.get(direction, {}).values()) for visit in visits]
    return size(fmean(sizes)) if sizes else "nothing"


def recipe_of(run: RunFolder, own: Sequence[str]) -> str:
    """The recipe as a table; `own` are the keys of what was trained, which come first."""
    tree = shorten_paths(parse_yaml(run.recipe) or {})
    if not tree:
        return ""
    data = tree.get("data") or {}
    rows = {
        **{name: as_call(_without_views(tree.get(name))) for name in own},
        "views": as_call(((tree.get("method") or {}).get("init_args") or {}).get("views")),
        "algorithm": as_call(tree.get("algorithm"), "FedAvg()"),
        "exchange": as_call(tree.get("exchange"), "none, weights only"),
        **{name: as_call(tree.get(name)) for name in ("label_fraction", "visit", "rounds", "policy")},
        "images": "simulated hospitals, no patients" if data.get("manifest") == "phantom" else "",
        "intensities to [-1, 1]": as_call(
            data.get("scaling"), f"{Percentiles()} of the foreground (above the minimum), per image"
        ),
        "seed": as_call(tree.get("seed")),
    }
    return "## Recipe\n\n" + table(["", ""], [[name, text] for name, text in rows.items() if text])


def _without_views(node: Any) -> Any:
    """Views have a row of their own."""
    if not isinstance(node, dict) or "init_args" not in node:
        return node
    return node | {"init_args": {k: v for k, v in node["init_args"].items() if k != "views"}}


def as_call(node: Any, absent: str = "") -> str:
    """A part of a recipe as a Python call; null and false are left out."""
    if node is None:
        return absent
    if isinstance(node, list):
        return f"[{', '.join(map(as_call, node))}]"
    if not isinstance(node, dict):
        return str(node)
    kind = str(node.get("class_path", "")).rpartition(".")[2]
    inside = node.get("init_args", {}) if kind else node
    arguments = ", ".join(f"{k}={as_call(v)}" for k, v in inside.items() if v is not None and v is not False)
    return f"{kind}({arguments})" if kind else arguments


def environment(run: RunFolder, about: Record) -> str:
    path = run.path / "environment.json"
    if not path.is_file():
        return ""
    found = read_json(path)
    versions = [f"{name} {found[name]}" for name in ("fedpretrain", "torch", "monai", "python") if found.get(name)]
    commit = [f"commit {found['git_commit']}"] if found.get("git_commit") else []
    facts = [*versions, *commit, f"{found.get('device')} ({found.get('platform')})", f"started {found.get('started')}"]
    spent = f", {duration(about['seconds'])} of training" if about.get("seconds") else ""
    return f"## Environment\n\n{plain(', '.join(facts))}{spent}."


LICENCE = """## Licence

These weights have no licence, so they may not be passed on yet. The hospitals whose images they were trained on must
decide whether the weights may leave the federation, to whom, and under which licence. In each hospital this is up to
those responsible for its data (data protection officer, ethics committee). Write the
licence here, and as `license:` at the top of this file."""

USE = """## Intended use and limits

For research: a starting point for fine-tuning on similar images. Not a medical device. Scores on these sites say little
about other sites: check before use, for each scanner and patient group. Weights can hold traces of the training
images."""
