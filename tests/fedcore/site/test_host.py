"""One door for all runs of a hospital."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fedcore.errors import InputError
from fedcore.files.lock import locked
from fedcore.messages.agreement import Facts
from fedcore.messages.answer import Contribution, Refusal
from fedcore.messages.encoding import kinds_of_messages
from fedcore.messages.message import Empty
from fedcore.messages.proposal import PROPOSE, Proposal, ProposalAnswer
from fedcore.messages.request import BUILD, FACTS, TRAIN
from fedcore.messages.wire import answer_of, request_bytes
from fedcore.site.approval import MOST_PROPOSED, approve, listing, propose, withdraw
from fedcore.site.home import SiteHome
from fedcore.site.host import SiteHost
from fedcore.site.runtime import CANNOT_WRITE
from fedcore.site.settings import SETTINGS
from tests.fedcore.site.homes import NAMES, accept, asked, declined, new_home, proposal, request, shared, two_manifests

RECIPE = shared()
DIGEST = RECIPE.digest


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return two_manifests(tmp_path_factory.mktemp("phantoms"))


@pytest.fixture
def home(manifests: dict[str, Path], tmp_path: Path) -> SiteHome:
    return new_home(tmp_path / "home", NAMES[0], manifests[NAMES[0]])


def lines(folder: Path, name: str = "audit.jsonl") -> list[dict[str, Any]]:
    path = folder / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def edit(home: SiteHome, old: str, new: str) -> None:
    path = home.path / SETTINGS
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_proposed_recipe_waits_for_a_person(home: SiteHome) -> None:
    host = SiteHost(home)
    for _ in range(2):
        answer = asked(host, proposal(RECIPE))
        assert isinstance(answer, Contribution)
        assert isinstance(answer.message, ProposalAnswer)
        assert not answer.message.approved
        assert [text.partition(" ")[0] for text in answer.message.versions] == ["fedpretrain", "torch"]
    assert [(entry.digest, entry.state) for entry in listing(home)] == [(DIGEST, "proposed")]
    approve(home, DIGEST[:8])
    answer = asked(host, proposal(RECIPE))
    assert isinstance(answer, Contribution)
    assert answer.message.approved  # type: ignore[attr-defined]


def test_what_is_said_to_a_proposal_is_audited_in_the_sites_folder(home: SiteHome) -> None:
    asked(SiteHost(home), proposal(RECIPE))
    said = lines(home.path)
    assert {line["message"] for line in said} == {"ProposalAnswer"}
    assert {(line["recipe"], line["request"]) for line in said} == {(DIGEST, PROPOSE)}


@pytest.mark.parametrize("word", [FACTS, BUILD, TRAIN, "probe", "anything"])
def test_no_recipe_runs_that_is_not_approved(home: SiteHome, word: str) -> None:
    propose(home, Proposal(RECIPE.command, RECIPE.text))
    reason = declined(SiteHost(home), request(word, DIGEST))
    short = DIGEST[:12]
    assert reason == (f"recipe {short} is not approved at this site; at the site run: fedpretrain site approve {short}")
    assert [line["text"] for line in lines(home.path)] == [reason]
    assert not home.runs.exists()


@pytest.mark.parametrize("digest", ["", "x", DIGEST[:12], DIGEST.upper(), f"../proposed/{DIGEST}", f"{DIGEST}\n"])
def test_a_recipe_is_named_by_its_whole_digest(home: SiteHome, digest: str) -> None:
    accept(home, RECIPE)
    assert declined(SiteHost(home), request(FACTS, digest)) == "the request names no recipe by its digest"


def test_an_approved_recipe_runs_in_a_folder_of_its_run(home: SiteHome) -> None:
    accept(home, RECIPE)
    answer = asked(SiteHost(home), request(FACTS, DIGEST))
    assert isinstance(answer, Contribution)
    assert isinstance(answer.message, Facts)
    assert (answer.message.train, answer.message.test) == (12, 4)
    said = lines(home.runs / "a_run")
    assert {(line["run"], line["recipe"], line["request"]) for line in said} == {("a_run", DIGEST, FACTS)}
    assert (home.runs / "a_run").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "A", "a b", "a\n", "a\x00", "x" * 65, "a.b"])
def test_the_name_of_a_run_is_no_path(home: SiteHome, name: str) -> None:
    accept(home, RECIPE)
    before = sorted(home.path.rglob("*"))
    reason = declined(SiteHost(home), request(FACTS, DIGEST, run=name))
    assert reason.startswith("the name of the run must have")
    assert sorted(home.path.rglob("*")) == sorted({*before, home.path / "audit.jsonl"})


def test_a_link_in_place_of_a_runs_folder_is_not_followed(home: SiteHome, tmp_path: Path) -> None:
    accept(home, RECIPE)
    home.runs.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (home.runs / "a_run").symlink_to(tmp_path / "elsewhere")
    assert "is a symbolic link" in declined(SiteHost(home), request(FACTS, DIGEST))
    assert not [*(tmp_path / "elsewhere").iterdir()]


def test_an_approval_that_is_withdrawn_ends_at_the_next_request(home: SiteHome) -> None:
    accept(home, RECIPE)
    host = SiteHost(home)
    assert isinstance(asked(host, request(FACTS, DIGEST)), Contribution)
    withdraw(home, DIGEST)
    assert declined(host, request(FACTS, DIGEST)).startswith(f"recipe {DIGEST[:12]} is not approved at this site")
    approve(home, DIGEST)
    assert isinstance(asked(host, request(FACTS, DIGEST)), Contribution)


def test_a_recipe_that_was_changed_after_its_approval_is_not_run(home: SiteHome) -> None:
    accept(home, RECIPE)
    host, path = SiteHost(home), home.approved / f"{DIGEST}.yaml"
    text = path.read_text()
    path.write_text(text.replace("seed: 0", "seed: 1"))
    assert declined(host, request(FACTS, DIGEST)).startswith(f"recipe {DIGEST[:12]} is not approved at this site")
    path.write_text(text)
    assert isinstance(asked(host, request(FACTS, DIGEST)), Contribution)


def test_another_recipe_put_under_an_approved_name_is_not_run(home: SiteHome) -> None:
    accept(home, RECIPE)
    other = shared("pretrain", "--seed", "5")
    (home.approved / f"{DIGEST}.yaml").write_bytes(other.as_file)
    host = SiteHost(home)
    assert "is not approved" in declined(host, request(FACTS, DIGEST))
    assert "is not approved" in declined(host, request(FACTS, other.digest))


def test_a_run_goes_on_with_the_recipe_that_it_began_with(home: SiteHome) -> None:
    other = shared("pretrain", "--seed", "5")
    for recipe in (RECIPE, other):
        accept(home, recipe)
    host = SiteHost(home)
    assert isinstance(asked(host, request(FACTS, DIGEST)), Contribution)
    assert declined(host, request(FACTS, other.digest)) == (
        "this run began with another recipe at this site; start it again in another folder"
    )
    assert isinstance(asked(host, request(FACTS, other.digest, run="another_run")), Contribution)


def test_settings_take_effect_at_the_next_request(home: SiteHome) -> None:
    accept(home, RECIPE)
    host = SiteHost(home)
    edit(home, "counts: exact", "counts: withheld")
    answer = asked(host, request(FACTS, DIGEST))
    assert isinstance(answer, Contribution)
    assert answer.message.train == 1  # type: ignore[attr-defined]
    edit(home, "counts: withheld", "counts: all")
    assert declined(host, request(FACTS, DIGEST)) == (
        "its settings cannot be used; at the site run: fedpretrain site check"
    )
    assert "policy.counts must be one of exact, rounded, withheld" in lines(home.path, "errors.jsonl")[0]["error"]
    edit(home, "counts: all", "counts: rounded")
    assert asked(host, request(FACTS, DIGEST)).message.train == 10  # type: ignore[union-attr]


def test_images_that_change_during_a_run_end_it_at_this_site(home: SiteHome, manifests: dict[str, Path]) -> None:
    accept(home, RECIPE)
    own = manifests[NAMES[0]].with_name("changing.csv")
    whole = manifests[NAMES[0]].read_text()
    own.write_text(whole)
    edit(home, str(manifests[NAMES[0]]), str(own))
    host = SiteHost(home)
    first = asked(host, request(FACTS, DIGEST))
    assert isinstance(first, Contribution)
    own.write_text("".join(whole.splitlines(keepends=True)[:-1]))  # one patient less
    for hospital in (host, SiteHost(home)):
        assert declined(hospital, request(FACTS, DIGEST)).startswith("its images, or how they are read, have changed")
    assert isinstance(asked(host, request(FACTS, DIGEST, run="a_new_run")), Contribution)
    own.write_text(whole)
    again = asked(host, request(FACTS, DIGEST))
    assert isinstance(again, Contribution)
    assert again.message == first.message


def test_a_site_without_a_manifest_declines_and_keeps_the_reason(home: SiteHome, manifests: dict[str, Path]) -> None:
    accept(home, RECIPE)
    edit(home, f"manifest: {manifests[NAMES[0]]}", "manifest: null")
    assert declined(SiteHost(home), request(FACTS, DIGEST)) == (
        "the recipe cannot be prepared with this site's settings; see errors.jsonl of the site"
    )
    assert "names no manifest; run: fedpretrain site data" in lines(home.path, "errors.jsonl")[0]["error"]


def test_errors_of_images_stay_at_the_site(home: SiteHome, manifests: dict[str, Path]) -> None:
    accept(home, RECIPE)
    edit(home, str(manifests[NAMES[0]]), "Jane Doe.csv")
    reason = declined(SiteHost(home), request(FACTS, DIGEST))
    assert reason == "InputErrors during facts; see errors.jsonl of the site"
    assert "Jane Doe.csv" in lines(home.runs / "a_run", "errors.jsonl")[0]["error"]


def test_a_run_that_another_process_works_on_is_left_alone(home: SiteHome) -> None:
    accept(home, RECIPE)
    host = SiteHost(home)
    assert isinstance(asked(host, request(FACTS, DIGEST)), Contribution)
    code = (
        "import sys; from pathlib import Path; from fedcore.files.lock import locked\n"
        f"with locked(Path({str(home.runs / 'a_run')!r})): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        assert "another process of this site works on this run" in declined(host, request(FACTS, DIGEST))
        other.communicate(b"")
    assert isinstance(asked(host, request(FACTS, DIGEST)), Contribution)


def test_requests_for_another_site_are_declined(home: SiteHome) -> None:
    accept(home, RECIPE)
    edit(home, f"name: {NAMES[0]}", f"name: {NAMES[1]}")
    for made in (request(FACTS, DIGEST), proposal(RECIPE)):
        answer = answer_of(SiteHost(home).handle(request_bytes(made)), NAMES[1], kinds_of_messages())
        assert answer == Refusal(NAMES[1], "the request is for another site")


def test_a_server_cannot_fill_the_disk_with_proposals(home: SiteHome) -> None:
    host = SiteHost(home)
    home.proposed.mkdir()
    for at in range(MOST_PROPOSED):
        (home.proposed / f"{at:064x}.yaml").write_text("x")
    assert declined(host, proposal(RECIPE)).startswith(f"{MOST_PROPOSED} proposed recipes wait at this site")
    withdraw(home, f"{7:064x}")
    assert isinstance(asked(host, proposal(RECIPE)), Contribution)
    assert isinstance(asked(host, proposal(RECIPE)), Contribution)  # known already
    assert "proposed recipes wait" in declined(host, proposal(shared("pretrain", "--seed", "9")))


@pytest.mark.parametrize(
    ("command", "text", "reason"),
    [("os.system", "seed: 0\n", "names another"), ("pretrain", "data: {manifest: /etc/passwd}\n", "hospital to set"),
     ("pretrain", "seed: [\n", "YAML"), ("pretrain", "x: 0\n", "x is no option")],
)  # fmt: skip
def test_a_proposal_that_is_no_recipe_is_declined(home: SiteHome, command: str, text: str, reason: str) -> None:
    said = declined(SiteHost(home), request(PROPOSE, "", Proposal(command, text)))
    assert said.startswith("the proposed recipe cannot be used")
    assert reason in said
    assert not home.proposed.exists()
    assert declined(SiteHost(home), request(PROPOSE, "", Empty())) == "a proposal must hold a recipe"


@pytest.mark.parametrize("data", [b"", b"x", b"\x80\x04K\x01.", b"{" * 99, b"\x02" + bytes(7) + b"{}"], ids=repr)
def test_bytes_that_are_no_request_are_declined_and_audited(home: SiteHome, data: bytes) -> None:
    answer = answer_of(SiteHost(home).handle(data), NAMES[0], kinds_of_messages())
    assert isinstance(answer, Refusal)
    assert answer.reason.startswith("the request cannot be read: it")
    assert [line["text"] for line in lines(home.path)] == [answer.reason]


def test_nothing_leaves_a_site_that_cannot_write(home: SiteHome) -> None:
    host = SiteHost(home)
    (home.path / "audit.jsonl").mkdir()
    assert declined(host, request(FACTS, DIGEST)) == CANNOT_WRITE
    assert declined(host, proposal(RECIPE)) == CANNOT_WRITE


def test_a_lock_of_the_same_process_is_no_hindrance(home: SiteHome) -> None:
    accept(home, RECIPE)
    with locked(home.runs / "a_run"):
        assert isinstance(asked(SiteHost(home), request(FACTS, DIGEST)), Contribution)


def test_a_folder_without_settings_is_no_site(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is not the folder of a site: it holds no site\.yaml"):
        SiteHome.open(tmp_path)
