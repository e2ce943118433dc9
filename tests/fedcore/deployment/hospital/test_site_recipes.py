"""A person at a hospital looks at recipes, approves them and withdraws them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedcore.deployment.hospital.audit import audit, page
from fedcore.deployment.hospital.recipes import approve, recipes, withdraw
from fedcore.errors import InputError
from fedcore.messages.proposal import Proposal
from fedcore.site.approval import approved, propose
from fedcore.site.home import SiteHome
from tests.fedcore.site.homes import NAMES, ByHosts, accept, new_home, shared, train_apart, two_manifests
from tests.fedcore.site.test_hosts_train import MOCO

SMALL = ["--rounds.count", "1", "--visit.max_steps", "1"]
RECIPE = shared("pretrain", *SMALL)
VECTORS = [*MOCO[:10], "--exchange", "fedssl.bank.vectors.ShareVectors", "--exchange.upload_size", "8"]


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return two_manifests(tmp_path_factory.mktemp("phantoms"), images=24)


@pytest.fixture
def home(manifests: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SiteHome:
    """The current folder."""
    home = new_home(tmp_path / "home", NAMES[0], manifests[NAMES[0]])
    monkeypatch.chdir(home.path)
    return home


def test_from_a_proposal_to_its_withdrawal(home: SiteHome, capsys: pytest.CaptureFixture[str]) -> None:
    recipes([])
    assert capsys.readouterr().out == "no recipe has been proposed yet\n"
    propose(home, Proposal(RECIPE.command, RECIPE.text))
    recipes([])
    out = capsys.readouterr().out
    assert [word in out for word in (RECIPE.digest[:12], "pretrain", "proposed")] == [True] * 3
    recipes([RECIPE.digest[:7]])
    shown = capsys.readouterr().out
    for text in (
        f"recipe {RECIPE.digest}", "command: pretrain, 1 round", "fedssl.methods.simclr.SimCLR",
        "train: Weights.tensors", "metrics of train (STATISTICS): loss", "highest level in rounds: STATISTICS",
        "estimated, for one round: receives", "no other recipe of pretrain is approved here",
    ):  # fmt: skip
        assert text in shown
    assert approved(home, RECIPE.digest) is None
    approve([RECIPE.digest[:7]])
    assert capsys.readouterr().out.startswith(shown)
    assert approved(home, RECIPE.digest) == RECIPE
    withdraw([RECIPE.digest[:7]])
    assert "is withdrawn: the next request of its runs is declined" in capsys.readouterr().out
    assert approved(home, RECIPE.digest) is None
    withdraw([RECIPE.digest[:7]])
    assert "is deleted" in capsys.readouterr().out


def test_the_difference_to_the_last_approved_recipe_is_shown(
    home: SiteHome, capsys: pytest.CaptureFixture[str]
) -> None:
    accept(home, RECIPE)
    now = shared("pretrain", *SMALL, "--seed", "3")
    propose(home, Proposal(now.command, now.text))
    recipes([now.digest])
    out = capsys.readouterr().out
    assert f"changed since {RECIPE.digest[:12]}" in out
    assert [line.split() for line in out.splitlines()][-1] == ["seed", "0", "3"]


def test_a_recipe_above_the_policy_is_not_approved(home: SiteHome) -> None:
    recipe = shared("pretrain", *VECTORS)
    propose(home, Proposal(recipe.command, recipe.text))
    with pytest.raises(InputError, match="cannot be approved at this site: SiteVectors reveals FEATURES"):
        approve([recipe.digest])
    assert approved(home, recipe.digest) is None


def test_a_changed_file_is_not_approved(home: SiteHome, capsys: pytest.CaptureFixture[str]) -> None:
    propose(home, Proposal(RECIPE.command, RECIPE.text))
    path = home.proposed / f"{RECIPE.digest}.yaml"
    path.write_text(path.read_text() + "workers: 2\n")
    for command in (approve, recipes):
        with pytest.raises(InputError, match="is no recipe, or was changed; remove it with: fedpretrain site withdraw"):
            command([RECIPE.digest])
    recipes([])
    assert "invalid" in capsys.readouterr().out


@pytest.mark.parametrize("command", [approve, withdraw, recipes])
def test_a_digest_that_is_not_there(home: SiteHome, command: object) -> None:
    with pytest.raises(InputError, match="6 or more digits of its digest, got 'abcdef'; this site has none"):
        command(["abcdef"])  # type: ignore[operator]


@pytest.mark.parametrize("command", [approve, withdraw, recipes, audit, page])
def test_a_folder_that_is_no_site(tmp_path: Path, command: object) -> None:
    with pytest.raises(InputError, match="is not the folder of a site"):
        command(["abcdef", "--home", str(tmp_path)])  # type: ignore[operator]


def test_what_left_and_the_page_of_a_run(home: SiteHome, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    audit([])
    assert capsys.readouterr().out == "this site has taken part in no run yet\n"
    with pytest.raises(InputError, match="has taken part in no run yet, so there is no page"):
        page([])
    accept(home, RECIPE)
    train_apart(tmp_path / "run", ByHosts({NAMES[0]: home}), "pretrain", *SMALL)
    (name,) = home.run_names()
    capsys.readouterr()
    audit([])
    (row,) = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith(name)]
    lines = [json.loads(line) for line in (home.runs / name / "audit.jsonl").read_text().splitlines()]
    assert row[:3] == [name, "1", "STATISTICS"]
    assert row[3:5] == [f"{sum(line['bytes'] for line in lines) / 1000:.3g}", "kB"]
    audit([name])
    out = capsys.readouterr().out
    assert "Most sensitive data sent: STATISTICS" in out
    assert {f"{line['request']}: {line['field']}" for line in lines} <= {
        " ".join(line.split()[:2]) for line in out.splitlines()
    }
    page([name, "--images", "false"])
    path = Path(capsys.readouterr().out.strip())
    assert path == home.runs / name / "page.html"
    assert NAMES[0] in path.read_text()
    page([])
    assert capsys.readouterr().out.strip() == str(path)
    with pytest.raises(InputError, match=f"no run '{name}x' .did you mean '{name}'"):
        page([f"{name}x"])


def test_lines_that_are_missing_in_the_log_are_noted(home: SiteHome, capsys: pytest.CaptureFixture[str]) -> None:
    folder = home.runs / "a_run"
    folder.mkdir(parents=True)
    line = {"round": 0, "what": "refusal", "field": "refusal", "reveals": "WEIGHTS", "to": "server", "text": "too loud"}
    text = "".join(json.dumps(line | {"seq": at, "bytes": 8, "request": "train"}) + "\n" for at in (0, 2))
    (folder / "audit.jsonl").write_text(text + '{"seq"')
    audit(["a_run"])
    out = capsys.readouterr().out
    assert "declined 2 times: too loud" in out
    assert "note: 1 lines of the audit log are not in their places" in out
    assert "note: The last line of the audit log was cut off" in out
