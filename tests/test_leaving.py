"""All data that leaves a site, in each kind of run, compared with README and with the run's own records.

All data leaves through one function, `AuditLog.release`. It is recorded here, and every tensor and number is compared
with the sites' audit logs, the server's record, the pages and cards, and the table in README, line by line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fedcore.cli.main import _level_sentence
from fedcore.cli.watch import progress_view
from fedcore.errors import InputError
from fedcore.messages.answer import Contribution
from fedcore.messages.message import Leaf, leaves
from fedcore.messages.metric_names import is_metric
from fedcore.messages.reveals import Reveals
from fedcore.privacy.audit_log import AuditLog
from fedcore.report import write_comparison, write_report
from fedcore.report.read.levels import level_sentence, meaning
from fedcore.report.read.reader import read_run
from fedcore.runs.communication import answers, highest
from fedcore.runs.folder import RunFolder
from fedgen.auditing.allowance import ENTRY
from fedgen.diffusion.sampler import Sampler
from fedgen.sample_gallery import SampleGallery
from fedgen.training import train
from fedtune.classification.finetuning import finetune
from tests.every_run import ENCODER, LEVELS, SHORT, SMALL_VAE, WEIGHTS, _run

README = Path(__file__).parents[1] / "README.md"


@dataclass(frozen=True)
class Sent:
    """What a site of a run sent in one answer."""

    run: str
    site: str
    answer: Contribution[Any]
    levels: Mapping[str, Reveals]

    @property
    def leaves(self) -> list[Leaf]:
        return list(leaves(self.answer.message, levels=self.levels))


@dataclass(frozen=True)
class Runs:
    folders: dict[str, Path]
    sent: list[Sent]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    """A short run of each kind, and all data that left its sites."""
    base, sent, original = tmp_path_factory.mktemp("runs"), list[Sent](), AuditLog.release

    def recorded(self: AuditLog, contribution: Any, turn: Any) -> Any:
        answer = original(self, contribution, turn)
        assert self.folder is not None, "every run gives its sites folders for their audit logs"
        sent.append(Sent(self.folder.parents[1].name, self.folder.name, answer, self.levels))
        return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AuditLog, "release", recorded)
        patch.setattr("fedgen.training.SampleGallery", partial(SampleGallery, sampler=Sampler(steps=2)))
        yield Runs({name: _run(name, base) for name in LEVELS}, sent)


def audit_log(runs: Runs, run: str) -> list[dict[str, Any]]:
    files = sorted((runs.folders[run] / "sites").glob("*/audit.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def test_audit_logs_list_all_data_that_was_sent_and_nothing_else(runs: Runs) -> None:
    for run in LEVELS:
        lines, sent = audit_log(runs, run), [one for one in runs.sent if one.run == run]
        tensors = [leaf for one in sent for leaf in one.leaves]
        scalars = [{"examples": one.answer.examples, "seconds": one.answer.seconds} for one in sent]
        scalars += [dict(one.answer.metrics) for one in sent if one.answer.metrics]
        assert sum(line["tensors"] for line in lines if "tensors" in line) == len(tensors)
        assert sum(line["bytes"] for line in lines if "tensors" in line) == sum(leaf.nbytes for leaf in tensors)
        logged = [line["values"] for line in lines if "values" in line]
        assert sorted(map(str, logged)) == sorted(str({k: float(v) for k, v in each.items()}) for each in scalars)
        assert all(is_metric(name) for one in sent for name in one.answer.metrics)
        assert {line["what"] for line in lines} <= {"weights", "exchange", "metrics", ENTRY}
        assert all(
            line["message"] and line["to"] for line in lines if line["what"] != ENTRY
        )  # an entry of a count, not of a message


@pytest.mark.parametrize("run", LEVELS)
def test_every_output_of_a_run_names_the_same_level(runs: Runs, run: str) -> None:
    folder, level = runs.folders[run], LEVELS[run]
    words = f"{level} ({meaning(level)})"
    booked = [*RunFolder(folder).rounds(), *answers(folder)]
    assert highest(booked) == level
    assert max(Reveals[line["reveals"]] for line in audit_log(runs, run)).name == level
    assert _level_sentence(folder) == level_sentence(level) == f"Most sensitive data sent: {words}"
    assert f"Most sensitive data sent: {words}" in _shown(folder)
    cards = [p for p in folder.rglob("README.md") if p.parent.name in ("encoder", "classifier", "segmenter")]
    assert cards or run in ("gan", "vae", "mdgan")
    assert all(f"Most sensitive data sent: **{level}** ({meaning(level)})" in card.read_text() for card in cards)
    page = write_report(folder).read_text()
    assert f'<dt>Most sensitive data sent</dt><dd>{level}</dd><dd class="detail">{meaning(level)}</dd>' in page
    assert "but the run recorded" not in page
    compared = write_comparison([folder, folder]).read_text()
    assert compared.count(f"{level} <small>{meaning(level)}</small>") == 2


def _shown(folder: Path) -> str:
    console = Console(width=200)
    with console.capture() as caught:
        console.print(progress_view(read_run(folder), 0.0))
    return caught.get()


def test_the_datasheet_of_a_released_set_names_the_same_level(runs: Runs) -> None:
    sheets = (runs.folders["gan"].parent / "released").glob("*.md")
    assert any(f"STATISTICS ({meaning('STATISTICS')})" in " ".join(sheet.read_text().split()) for sheet in sheets)


@pytest.mark.parametrize("run", ["weights", "quiet"])
def test_without_metrics_only_numbers_of_images_and_seconds_leave(runs: Runs, run: str) -> None:
    assert {frozenset(line.get("values", ())) for line in audit_log(runs, run)} == {
        frozenset(), frozenset({"examples", "seconds"})
    }  # fmt: skip
    about = RunFolder(runs.folders[run]).about()
    assert any("No evaluation between rounds" in note for note in about["notes"])
    assert all(not r["evaluation"] for r in RunFolder(runs.folders[run]).rounds())


def test_a_run_that_needs_metrics_is_an_error_before_training_without_them(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"reveals STATISTICS.*set policy\.max_level to STATISTICS"):
        finetune(RunFolder(tmp_path / "a"), encoder=ENCODER, policy=WEIGHTS, **SHORT)
    with pytest.raises(InputError, match=r"normalization\.mean, which is sent with the weights, reveals STATISTICS"):
        train(RunFolder(tmp_path / "b"), SMALL_VAE, policy=WEIGHTS, **SHORT)
    assert not list(tmp_path.iterdir())


def rows_of_readme() -> dict[str, tuple[str, str]]:
    """Kind of message -> (level, when) of the table under "What leaves a site"."""
    section = README.read_text(encoding="utf-8").split("## What leaves a site")[1].split("\n## ")[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    assert cells[0] == ["message", "what leaves the site", "level", "when"]
    return {kind: (level, when) for kinds, _, level, when in cells[2:] for kind in re.findall(r"`(\w+)`", kinds)}


def kinds_of(sent: Sent) -> dict[str, Reveals]:
    """Kinds of message in one answer with the highest level of their fields, and its numbers."""
    found: dict[str, Reveals] = {"answer": Reveals.WEIGHTS}
    if sent.answer.metrics:
        found["metrics"] = Reveals.STATISTICS
    for leaf in sent.leaves:
        raised = leaf.kind == "Weights" and leaf.reveals > Reveals.WEIGHTS
        kind = "buffers" if raised else leaf.kind
        found[kind] = max(leaf.reveals, found.get(kind, Reveals.WEIGHTS))
    return found


def test_all_data_that_leaves_has_a_line_in_readme_and_every_line_occurs(runs: Runs) -> None:
    rows, found = rows_of_readme(), dict[str, Reveals]()
    for sent in runs.sent:
        for kind, level in kinds_of(sent).items():
            assert kind in rows, f"README has no line for {kind}, which was sent in {sent.run}"
            found[kind] = max(level, found.get(kind, Reveals.WEIGHTS))
    assert found.keys() == rows.keys() - {"refusal"}
    assert {kind: level.name for kind, level in found.items()} == {kind: rows[kind][0] for kind in found}


def test_messages_passed_to_other_sites_are_marked_so(runs: Runs) -> None:
    to_sites = {
        line["message"] for run in LEVELS for line in audit_log(runs, run) if line.get("to", "server") != "server"
    }
    assert to_sites == {"SiteStatistics", "SiteVectors"}
