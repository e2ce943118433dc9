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

from fedcore.algorithms.fednova import FedNova
from fedcore.algorithms.local_only import LocalOnly
from fedcore.algorithms.quantised import Quantised
from fedcore.algorithms.scaffold import Scaffold
from fedcore.cli.main import _level_sentence
from fedcore.cli.watch import progress_view
from fedcore.config.recipe import read_recipe
from fedcore.data.phantom.phantoms import Phantoms
from fedcore.data.source import Data
from fedcore.errors import InputError
from fedcore.messages.answer import Contribution
from fedcore.messages.message import Leaf, leaves
from fedcore.messages.metric_names import is_metric
from fedcore.messages.reveals import Reveals
from fedcore.models.resnet import ResNet
from fedcore.privacy.audit_log import AuditLog
from fedcore.privacy.policy import Policy
from fedcore.report import write_comparison, write_report
from fedcore.report.read.levels import level_sentence, meaning
from fedcore.report.read.reader import read_run
from fedcore.runs.communication import answers, highest
from fedcore.runs.folder import RunFolder
from fedcore.server.rounds import Rounds
from fedcore.training.visit import Visit
from fedgen.auditing.allowance import ENTRY
from fedgen.auditing.run import audit
from fedgen.diffusion.sampler import Sampler
from fedgen.gan.discriminator import Discriminator
from fedgen.gan.gan import GAN
from fedgen.gan.generator_network import GeneratorNetwork
from fedgen.gan.mdgan import MDGAN
from fedgen.latent.autoencoder import Autoencoder
from fedgen.latent.vae import VAE
from fedgen.oneshot.inversion import Inversion
from fedgen.oneshot.invert import invert
from fedgen.releases.release import release
from fedgen.sample_gallery import SampleGallery
from fedgen.sampling import sample
from fedgen.training import train
from fedssl.bank.statistics import ShareStatistics
from fedssl.bank.vectors import ShareVectors
from fedssl.methods.moco import MoCo
from fedssl.methods.simclr import SimCLR
from fedssl.pretraining import pretrain
from fedtune.classification.finetuning import finetune
from fedtune.segmentation.networks import EncoderUNet
from fedtune.segmentation.training import segment

README = Path(__file__).parents[1] / "README.md"
WORDS = ["--data.size", "16", "--data.phantom.sites", "2", "--data.phantom.images_per_site", "100"]
ENCODER_WORDS = ["--encoder", "fedcore.models.resnet.ResNet", "--encoder.depth", "10", "--encoder.stem", "2"]
DATA = Data(size=16, phantom=Phantoms(sites=2, images_per_site=100, test_fraction=0.4))
ENCODER = partial(ResNet, depth=10, stem=2)
MOCO = partial(MoCo, bank_size=64, remote_bank_size=64, hidden_dim=16, projection_dim=8)
VISIT = Visit(batch_size=16, max_steps=4, accelerator="cpu")
SHORT: dict[str, Any] = {"data": DATA, "rounds": Rounds(1), "loggers": (), "visit": VISIT}
STATISTICS, FEATURES = Policy(Reveals.STATISTICS), Policy(Reveals.FEATURES)
FEW = Policy(min_patients=1)
QUIET, WEIGHTS = Policy(metrics=False, min_patients=1), Policy(Reveals.WEIGHTS)
SMALL_GAN = partial(
    GAN,
    generator_network=partial(GeneratorNetwork, widths=(8, 8), latent_dim=4),
    discriminator=partial(Discriminator, widths=(8, 8)),
)
SMALL_VAE = partial(VAE, network=partial(Autoencoder, widths=(8, 8)))
PRETRAINED: dict[str, dict[str, Any]] = {
    "weights": {"policy": WEIGHTS}, "quiet": {"policy": QUIET}, "metrics": {},
    "statistics": {"method": MOCO, "exchange": ShareStatistics(remote_features=16, min_patients=8)},
    "vectors": {"method": MOCO, "exchange": ShareVectors(upload_size=8, remote_features=8), "policy": FEATURES},
    "controls": {"algorithm": Scaffold()}, "lengths": {"algorithm": FedNova()}, "int8": {"algorithm": Quantised()},
    "alone": {"algorithm": LocalOnly()},
}  # fmt: skip
TUNED: dict[str, dict[str, Any]] = {
    "classes": {"policy": FEW}, "classes quiet": {"policy": QUIET},
    "classes alone": {"policy": FEW, "algorithm": LocalOnly()},
}  # fmt: skip
LEVELS = {
    "weights": "WEIGHTS", "quiet": "WEIGHTS", "metrics": "STATISTICS", "statistics": "STATISTICS",
    "vectors": "FEATURES", "controls": "STATISTICS", "lengths": "STATISTICS", "int8": "STATISTICS",
    "alone": "STATISTICS", "classes": "STATISTICS", "classes quiet": "STATISTICS", "classes alone": "STATISTICS",
    "masks": "STATISTICS", "gan": "FEATURES", "vae": "STATISTICS", "mdgan": "STATISTICS",
}  # fmt: skip


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


def _run(name: str, base: Path) -> Path:
    folder = base / name
    if name in PRETRAINED:
        how = {"method": SimCLR, **PRETRAINED[name]}
        pretrain(RunFolder(folder), ENCODER, **SHORT, **how)
    elif name in TUNED:
        recipe = read_recipe(finetune, "finetune", WORDS + ENCODER_WORDS).text
        finetune(RunFolder(folder, recipe), encoder=ENCODER, **SHORT, **TUNED[name])
    elif name == "masks":
        network = partial(EncoderUNet, encoder=ENCODER, decoder_channels=(8, 8, 8, 8, 8))
        segment(RunFolder(folder), network=network, policy=FEW, **SHORT)
    else:
        generator = SMALL_VAE if name == "vae" else SMALL_GAN
        recipe = read_recipe(train, "generate train", WORDS).text
        train(
            RunFolder(folder, recipe),
            generator,
            algorithm=MDGAN(generated_batch_size=8) if name == "mdgan" else None,
            **SHORT,
        )
    if name == "classes alone":
        invert(folder, base / "inverted", 4, inversion=Inversion(steps=2))
    if name == "gan":
        sample(folder, base / "set", 8)
        audit(folder, base / "set", base / "metrics", ["--data.phantom.test_fraction", "0.4"])
        release(base / "set", base / "released", force=True)
    return folder


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
