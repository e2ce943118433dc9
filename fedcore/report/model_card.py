"""What every card of a run's result says: what left the sites, recipe, environment, licence, limits.

Markdown. Everything comes from the run's own record; what that lacks is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from fedcore.data.preprocess.scaling import Percentiles
from fedcore.files.reading import read_json, yaml_of
from fedcore.report.markdown import plain, table
from fedcore.report.private import shorten_paths
from fedcore.report.read.digest import MOST_SENSITIVE, meaning
from fedcore.report.units import duration, size
from fedcore.runs.communication import answers, highest
from fedcore.runs.folder import RunFolder

Record = Mapping[str, Any]
"""A line of rounds.jsonl."""


def head(*tags: str) -> str:
    """YAML, as model hubs read it."""
    known = ["medical-imaging", "federated-learning", *tags]
    return f"---\nlibrary_name: fedpretrain\ntags: [{', '.join(known)}]\n# license: not decided, see Licence below\n---"


def left(run: RunFolder) -> str:
    """What left the sites until this card was written."""
    rounds = run.rounds()
    level = highest([*rounds, *answers(run.path)])
    visits = [visit for r in rounds for visit in r["sites"].values()]
    up, down = (_per_visit(visits, way) for way in ("up", "down"))
    return f"""## What left the sites

{MOST_SENSITIVE}: **{level}** ({meaning(level)}). A site and round: {up} up, {down} down.
The `audit.jsonl` of each site lists everything."""


def _per_visit(visits: Sequence[Record], way: str) -> str:
    sizes = [sum(visit.get(way, {}).values()) for visit in visits]
    return size(fmean(sizes)) if sizes else "nothing"


def recipe_of(run: RunFolder, own: Sequence[str]) -> str:
    """The recipe in a table; `own` are the keys of what was trained, which come first."""
    tree = shorten_paths(yaml_of(run.recipe) or {})
    if not tree:
        return ""
    data = tree.get("data") or {}
    rows = {
        **{name: told(_without_views(tree.get(name))) for name in own},
        "views": told(((tree.get("method") or {}).get("init_args") or {}).get("views")),
        "algorithm": told(tree.get("algorithm"), "FedAvg()"),
        "exchange": told(tree.get("exchange"), "none, weights alone"),
        **{name: told(tree.get(name)) for name in ("label_fraction", "visit", "rounds", "policy")},
        "images": "phantom hospitals, no patients" if data.get("manifest") == "phantom" else "",
        "intensities to [-1, 1]": told(
            data.get("scaling"), f"{Percentiles()} of the foreground (above the minimum), image by image"
        ),
        "seed": told(tree.get("seed")),
    }
    return "## Recipe\n\n" + table(["", ""], [[name, text] for name, text in rows.items() if text])


def _without_views(node: Any) -> Any:
    """They have a row of their own."""
    if not isinstance(node, dict) or "init_args" not in node:
        return node
    return node | {"init_args": {k: v for k, v in node["init_args"].items() if k != "views"}}


def told(node: Any, absent: str = "") -> str:
    """A part of a recipe as Python would write it; what is null or off is left out."""
    if node is None:
        return absent
    if isinstance(node, list):
        return f"[{', '.join(map(told, node))}]"
    if not isinstance(node, dict):
        return str(node)
    kind = str(node.get("class_path", "")).rpartition(".")[2]
    inside = node.get("init_args", {}) if kind else node
    said = ", ".join(f"{k}={told(v)}" for k, v in inside.items() if v is not None and v is not False)
    return f"{kind}({said})" if kind else said


def environment(run: RunFolder, about: Record) -> str:
    path = run.path / "environment.json"
    if not path.is_file():
        return ""
    found = read_json(path)
    versions = [f"{name} {found[name]}" for name in ("fedpretrain", "torch", "monai", "python") if found.get(name)]
    commit = [f"commit {found['git_commit']}"] if found.get("git_commit") else []
    facts = [*versions, *commit, f"{found.get('device')} ({found.get('platform')})", f"begun {found.get('started')}"]
    spent = f", {duration(about['seconds'])} of training" if about.get("seconds") else ""
    return f"## Environment\n\n{plain(', '.join(facts))}{spent}."


LICENCE = """## Licence

None is given with these weights, so nobody may pass them on yet. The hospitals whose images they learned from have to
decide, each by whoever answers for its data (data protection officer, ethics committee): whether the weights may leave
the federation, to whom, and under which licence. Write it here, and as `license:` into the head of this page."""

USE = """## Intended use and limits

For research: a start for fine-tuning on images like these. Not a medical device. Scores on these sites say little about
others; check before use, scanner by scanner and group by group. Weights can hold traces of the images they learned
from."""
