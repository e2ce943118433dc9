from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from fedcore.errors import InputError, Refused
from fedcore.messages.proposal import Proposal
from fedcore.site.approval import approve, approved, find, last_approved, listing, propose, withdraw
from fedcore.site.home import SiteHome
from tests.fedcore.site.homes import accept, new_home, shared

ONE, TWO, OTHER = shared(), shared("pretrain", "--seed", "2"), shared("finetune")


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    return new_home(tmp_path / "home", "hospital_1", tmp_path / "own.csv")


def offered(home: SiteHome, *recipes: object) -> None:
    for recipe in recipes or (ONE, TWO, OTHER):
        propose(home, Proposal(recipe.command, recipe.text))  # type: ignore[attr-defined]


def states(home: SiteHome) -> dict[str, str]:
    return {entry.digest: entry.state for entry in listing(home)}


def test_a_proposal_becomes_an_approval_and_the_other_way_round(home: SiteHome) -> None:
    offered(home, ONE)
    assert states(home) == {ONE.digest: "proposed"}
    assert approved(home, ONE.digest) is None
    assert approve(home, ONE.digest[:6]) == ONE
    assert states(home) == {ONE.digest: "approved"}
    assert approved(home, ONE.digest) == ONE
    assert approve(home, ONE.digest) == ONE
    assert withdraw(home, ONE.digest[:12]).state == "approved"
    assert approved(home, ONE.digest) is None
    assert states(home) == {ONE.digest: "proposed"}
    assert withdraw(home, ONE.digest).state == "proposed"
    assert states(home) == {}


def test_approvals_and_withdrawals_are_in_the_audit_log(home: SiteHome) -> None:
    accept(home, ONE)
    withdraw(home, ONE.digest)
    lines = [json.loads(line) for line in (home.path / "audit.jsonl").read_text().splitlines()]
    assert [(line["seq"], line["what"], line["recipe"]) for line in lines] == [
        (0, "approval", ONE.digest), (1, "withdrawal", ONE.digest)
    ]  # fmt: skip


def test_the_file_of_a_recipe_has_its_checksum_for_a_name(home: SiteHome) -> None:
    import hashlib

    accept(home, ONE)
    path = home.approved / f"{ONE.digest}.yaml"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == path.stem


def test_a_changed_file_is_invalid_wherever_it_lies(home: SiteHome) -> None:
    offered(home, ONE)
    accept(home, TWO)
    for path in (home.proposed / f"{ONE.digest}.yaml", home.approved / f"{TWO.digest}.yaml"):
        path.write_bytes(path.read_bytes() + b"\n")
    assert states(home) == {ONE.digest: "invalid", TWO.digest: "invalid"}
    assert approved(home, TWO.digest) is None
    for digest in (ONE.digest, TWO.digest):
        with pytest.raises(InputError, match="was changed after it was proposed, or another version"):
            approve(home, digest)
    offered(home, TWO)
    assert not propose(home, Proposal(TWO.command, TWO.text))
    withdraw(home, ONE.digest)
    assert ONE.digest not in states(home)


def test_a_link_is_no_approval(home: SiteHome, tmp_path: Path) -> None:
    home.approved.mkdir()
    (tmp_path / "elsewhere").write_bytes(ONE.as_file)
    (home.approved / f"{ONE.digest}.yaml").symlink_to(tmp_path / "elsewhere")
    assert approved(home, ONE.digest) is None


def test_a_proposal_replaces_no_approval(home: SiteHome) -> None:
    accept(home, ONE)
    before = (home.approved / f"{ONE.digest}.yaml").stat()
    assert propose(home, Proposal(ONE.command, ONE.text))
    assert os.path.samestat(before, (home.approved / f"{ONE.digest}.yaml").stat())
    assert not [*home.proposed.iterdir()]


@pytest.mark.parametrize("prefix", ["", "abc", "zzzzzz", "../../x", "*"])
def test_a_recipe_is_named_by_digits_of_its_digest(home: SiteHome, prefix: str) -> None:
    offered(home, ONE)
    for act in (approve, withdraw, find):
        with pytest.raises(InputError, match=f"6 or more digits of its digest.* this site has {ONE.digest[:12]}"):
            act(home, prefix)
    assert states(home) == {ONE.digest: "proposed"}


def test_several_recipes_with_these_digits_are_told_apart(home: SiteHome) -> None:
    home.proposed.mkdir()
    for at in range(2):
        (home.proposed / f"{'a' * 63}{at}.yaml").write_text("x")
    with pytest.raises(InputError, match="2 recipes begin with 'aaaaaa'; give more digits"):
        withdraw(home, "aaaaaa")
    assert find(home, "a" * 63 + "1").digest.endswith("1")


def test_other_files_are_no_recipes(home: SiteHome) -> None:
    home.proposed.mkdir()
    for name in ("notes.yaml", "x", f"{ONE.digest}.txt", f"{ONE.digest[:40]}.yaml"):
        (home.proposed / name).write_bytes(ONE.as_file)
    assert listing(home) == []


def test_the_last_approved_recipe_of_a_command(home: SiteHome) -> None:
    for at, recipe in enumerate((ONE, TWO, OTHER)):
        accept(home, recipe)
        os.utime(home.approved / f"{recipe.digest}.yaml", (at, at))
    assert last_approved(home, "pretrain", but="") == TWO
    assert last_approved(home, "pretrain", but=TWO.digest) == ONE
    assert last_approved(home, "segment", but="") is None


def test_a_recipe_that_cannot_be_used_is_declined_in_words(home: SiteHome) -> None:
    with pytest.raises(Refused, match=r"the proposed recipe cannot be used: the recipe: 1 error\s+x is no option"):
        propose(home, Proposal("pretrain", "x: 1\n"))


def test_what_a_site_keeps_is_for_its_owner_alone(home: SiteHome) -> None:
    offered(home, ONE)
    accept(home, TWO)
    assert {folder.stat().st_mode & 0o777 for folder in (home.proposed, home.approved)} == {0o700}
