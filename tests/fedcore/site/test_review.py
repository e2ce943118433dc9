"""What a person sees of a recipe before it is approved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedcore.config.shared_recipe import SharedRecipe
from fedcore.errors import InputError
from fedcore.messages.answer import Contribution
from fedcore.messages.message import nbytes
from fedcore.messages.proposal import Proposal
from fedcore.messages.request import EVALUATE, FACTS, TRAIN
from fedcore.messages.reveals import Reveals
from fedcore.runs.environment import version
from fedcore.site.approval import propose
from fedcore.site.home import SiteHome
from fedcore.site.review import flat, review
from tests.fedcore.site.homes import NAMES, ByHosts, accept, new_home, shared, train_apart, two_manifests
from tests.fedcore.site.test_hosts_train import MOCO

VECTORS = [*MOCO[:10], "--exchange", "fedssl.bank.vectors.ShareVectors", "--exchange.upload_size", "8"]
SMALL = ["--rounds.count", "1", "--visit.max_steps", "1"]


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return two_manifests(tmp_path_factory.mktemp("phantoms"), images=24)


@pytest.fixture
def home(manifests: dict[str, Path], tmp_path: Path) -> SiteHome:
    return new_home(tmp_path / "home", NAMES[0], manifests[NAMES[0]])


@pytest.fixture
def open_home(manifests: dict[str, Path], tmp_path: Path) -> SiteHome:
    return new_home(tmp_path / "home", NAMES[0], manifests[NAMES[0]], level="FEATURES")


def test_every_field_that_would_leave_is_listed_with_its_level(home: SiteHome) -> None:
    found = review(home, shared("pretrain", *MOCO))
    sent = {(item.word, item.message, item.field): item.reveals for item in found.items}
    assert sent[TRAIN, "Weights", "tensors"] == Reveals.WEIGHTS
    assert sent[TRAIN, "SiteStatistics", "mean"] == Reveals.STATISTICS
    assert sent[FACTS, "Facts", "classes"] == Reveals.WEIGHTS
    assert found.level == Reveals.STATISTICS
    assert "loss" in found.metrics[TRAIN]
    assert {"knn", "effective_rank"} <= {*found.metrics[EVALUATE]}
    assert found.rounds == 2


def test_the_level_is_that_of_the_most_sensitive_field(open_home: SiteHome) -> None:
    assert review(open_home, shared("pretrain", *VECTORS)).level == Reveals.FEATURES
    assert review(open_home, shared("pretrain", *SMALL)).level == Reveals.STATISTICS  # its metrics


def test_without_metrics_only_weights_leave(manifests: dict[str, Path], tmp_path: Path) -> None:
    home = new_home(tmp_path / "home", NAMES[0], manifests[NAMES[0]], level="WEIGHTS")
    assert review(home, shared("pretrain", *SMALL)).level == Reveals.WEIGHTS


def test_more_than_the_policy_allows_is_told_before_the_approval(home: SiteHome) -> None:
    recipe = shared("pretrain", *VECTORS)
    with pytest.raises(InputError) as error:
        review(home, recipe)
    assert str(error.value).startswith(
        f"recipe {recipe.digest[:12]} cannot be approved at this site: SiteVectors reveals FEATURES, the policy allows "
        "STATISTICS"
    )


def test_the_estimated_bytes_are_those_that_are_sent(open_home: SiteHome, tmp_path: Path) -> None:
    words = [*VECTORS, *SMALL]
    recipe = shared("pretrain", *words)
    found = review(open_home, recipe)
    assert found.traffic is not None
    assert not found.traffic.error
    accept(open_home, recipe)
    sent: dict[str, tuple[int, int]] = {}
    transport = ByHosts({NAMES[0]: open_home})
    asks = transport.ask

    def noting(requests: Any, deadline: float | None = None) -> Any:
        for request in requests:
            (answer,) = asks([request], deadline)
            assert isinstance(answer, Contribution), answer
            sent[request.word] = nbytes(request.message), nbytes(answer.message)
            yield answer

    transport.ask = noting  # type: ignore[method-assign]
    train_apart(tmp_path / "run", transport, "pretrain", *words)
    assert (found.traffic.down, found.traffic.up) == sent[TRAIN]


def test_a_trial_that_fails_counts_the_weights(home: SiteHome) -> None:
    words = ["--algorithm", "fedcore.algorithms.fedrep.FedRep", "--visit.max_epochs", "2", "--visit.max_steps", "-1"]
    traffic = review(home, shared("finetune", *words, "--algorithm.head_epochs", "1")).traffic
    assert traffic is not None
    assert "head_epochs" in traffic.error
    assert 0 < traffic.up <= traffic.down


def test_a_review_leaves_no_run_behind(home: SiteHome) -> None:
    review(home, shared("pretrain", *SMALL))
    assert not home.runs.exists()
    assert not home.approved.exists()
    assert not (home.path / "audit.jsonl").exists()


def test_classes_are_named_with_their_packages(home: SiteHome) -> None:
    classes = review(home, shared("pretrain", *MOCO, "--method.optimizer", "torch.optim.AdamW")).classes
    assert classes["fedssl.methods.moco.MoCo"] == f"fedpretrain {version('fedpretrain')}"
    assert classes["torch.optim.AdamW"] == f"torch {version('torch')}"


def test_what_a_site_alone_cannot_build_may_still_be_approved(manifests: dict[str, Path], tmp_path: Path) -> None:
    own = tmp_path / "one_class.csv"
    lines = manifests[NAMES[0]].read_text().splitlines()
    column = lines[0].split(",").index("label")
    rows = [line.split(",") for line in lines[1:]]
    folder = manifests[NAMES[0]].parent
    for row in rows:
        row[column] = "only"
        for name in ("image", "mask"):
            at = lines[0].split(",").index(name)
            row[at] = row[at] and str(folder / row[at])
    own.write_text("\n".join([lines[0], *(",".join(row) for row in rows)]))
    found = review(new_home(tmp_path / "home", NAMES[0], own), shared("finetune"))
    assert found.traffic is None
    assert "at least 2 classes" in found.note


def test_the_difference_to_the_last_approved_recipe_of_the_command(home: SiteHome) -> None:
    first, other = shared("pretrain", *SMALL), shared("finetune")
    assert review(home, first).previous is None
    accept(home, first)
    accept(home, other)
    now = shared("pretrain", *SMALL, "--seed", "3", "--algorithm", "fedcore.algorithms.fedbn.FedBN")
    propose(home, Proposal(now.command, now.text))
    found = review(home, now)
    assert found.previous == first
    assert found.changes == [
        ("algorithm", "null", "fedcore.algorithms.fedbn.FedBN"), ("algorithm.aggregator", "absent", "null"),
        ("algorithm.norms", "absent", "batch"), ("seed", "0", "3"),
    ]  # fmt: skip


def test_keys_are_flat_as_on_the_command_line() -> None:
    tree = {"a": {"class_path": "x.Y", "init_args": {"b": 1, "c": None}}, "d": [1, 2], "e": True}
    assert flat(tree) == {"a": "x.Y", "a.b": "1", "a.c": "null", "d": "[1, 2]", "e": "true"}


def test_settings_that_are_incomplete_are_told(home: SiteHome) -> None:
    path = home.path / "site.yaml"
    path.write_text(path.read_text().replace(str(home.settings().manifest), "absent.csv"))
    with pytest.raises(InputError, match=r"absent\.csv"):
        review(home, shared())


def test_a_class_that_is_not_installed_or_not_trusted_is_told(home: SiteHome) -> None:
    import yaml

    text = yaml.safe_dump(shared().tree | {"algorithm": "absent_package.FedAvg"}, sort_keys=True, width=1000)
    with pytest.raises(InputError, match="there is no module 'absent_package'"):
        review(home, SharedRecipe.received("pretrain", text))
