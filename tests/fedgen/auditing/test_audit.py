"""What one site makes of a request to audit, whoever sends it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fedcore.data.dataset import Images
from fedcore.errors import Refused
from fedcore.messages.message import Weights
from fedcore.messages.round import Round
from fedcore.models.resnet import ResNet
from fedcore.privacy.audit_log import AuditLog
from fedcore.privacy.policy import Policy
from fedcore.site.site import Site
from fedgen.auditing.allowance import CountedAudit, counted_audits
from fedgen.auditing.audit import Audit, AuditAnswer, AuditRequest
from fedgen.generator import Conditions
from tests.fedcore.toys import images, local

ENCODER = ResNet(depth=10, stem=2).eval()
VISITOR = CountedAudit(Audit(Conditions(("cat", "dog"), ("a", "b"))))


def request(**changes: Any) -> AuditRequest:
    pixels = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        features = ENCODER(pixels)
    zeros, description = torch.zeros(6).long(), json.dumps({"encoder": "ResNet", "init_args": ENCODER.config})
    weights = Weights(ENCODER.state_dict())
    one = AuditRequest(pixels, features, zeros, zeros, torch.arange(6), description, weights, "0" * 64, "1" * 64)
    return replace(one, **changes)


def site(folder: Path, name: str = "a", audits: int = 2, of: Images | None = None) -> Site:
    policy, data = Policy(min_patients=1, audits=audits), of or images(name, 24)
    return Site(name, data, images("c", 24), {}, folder, policy, AuditLog(policy.for_audit(), folder))


def audited(at: Site, down: AuditRequest) -> Any:
    return VISITOR.visit(at, down, local(), Round(0, 1, 0))


def refused(folder: Path, down: AuditRequest) -> Refused:
    with pytest.raises(Refused) as error:
        audited(site(folder), down)
    return error.value


def test_an_answer_has_a_row_for_each_comparison(tmp_path: Path) -> None:
    assert audited(site(tmp_path), request()).message.copies.shape == (2, 6)
    pixels_alone = request(features=torch.zeros(6, 0), description="", encoder=Weights({}))
    assert audited(site(tmp_path), pixels_alone).message.copies.shape == (1, 6)


def test_the_same_question_is_counted_once_under_any_name(tmp_path: Path) -> None:
    for digests in ({}, {"set": "2" * 64}, {"generator": "3" * 64}):
        audited(site(tmp_path, audits=1), request(**digests))
    assert len(counted_audits(tmp_path)) == 1


@pytest.mark.parametrize("field", ["images", "features", "site_styles", "labels", "numbers", "description", "encoder"])
def test_another_question_is_counted_again(tmp_path: Path, field: str) -> None:
    """Features, too: a sender could take those of other images than the ones it sends."""
    audited(site(tmp_path, audits=1), request())
    one = request()
    changed: dict[str, Any] = {
        "images": -one.images, "features": one.features + 1, "site_styles": one.site_styles + 1,
        "labels": one.labels + 1, "numbers": one.numbers + 1, "description": one.description + " ",
        "encoder": Weights({k: t + 1 for k, t in one.encoder.tensors.items()}),
    }  # fmt: skip
    with pytest.raises(Refused, match=r"it has answered 1 audits of sets of this run and policy\.audits allows 1"):
        audited(site(tmp_path, audits=1), request(**{field: changed[field]}))


@pytest.mark.parametrize("digest", ["", "0" * 63, "0" * 65, "g" * 64, "0" * 64 + "\n", "x" * 10**6])
@pytest.mark.parametrize("field", ["set", "generator"])
def test_a_name_that_is_no_digest_is_not_written_to_the_log(tmp_path: Path, field: str, digest: str) -> None:
    assert "by digests of 64 hexadecimal digits" in str(refused(tmp_path, request(**{field: digest})))
    assert counted_audits(tmp_path) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"description": "{"}, "cannot be built from its description and weights"),
        ({"description": json.dumps({"encoder": "os.system", "init_args": {}})}, "cannot be built from"),
        ({"description": ""}, "cannot be built from"),
        ({"encoder": Weights({})}, "cannot be built from"),
        ({"features": torch.zeros(6, 3)}, "features have 3 numbers, those of the encoder 16"),
    ],
)
def test_an_encoder_that_cannot_be_used_is_declined(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    assert message in str(refused(tmp_path, request(**changes)))


def test_an_encoder_of_other_images_is_declined(tmp_path: Path) -> None:
    colour = ResNet(channels=3, depth=10, stem=2)
    down = request(
        description=json.dumps({"encoder": "ResNet", "init_args": colour.config}), encoder=Weights(colour.state_dict())
    )
    assert "it takes channels 3, not 1" in str(refused(tmp_path, down))


def test_what_the_sender_wrote_is_not_sent_back(tmp_path: Path) -> None:
    """A refusal is a sentence of this program; the rest stays in errors.jsonl."""
    error = refused(tmp_path, request(description=json.dumps({"encoder": "Jane Doe", "init_args": {}})))
    assert "Jane Doe" not in str(error)
    assert error.details == "the encoder is none of ResNet, DenseNet, ViT"


def test_labels_that_the_training_did_not_use_are_compared_with(tmp_path: Path) -> None:
    own = images("a", 48)
    hidden = replace(own, labels=torch.full((48,), -1), all_labels=own.labels)
    whole, part = (audited(site(tmp_path / name, of=of), request()) for name, of in (("whole", own), ("part", hidden)))
    assert isinstance(whole.message, AuditAnswer)
    assert torch.equal(whole.message.training.count, part.message.training.count)
    assert whole.message.training.count.tolist() == [24, 24, 0]
    assert whole.metrics == part.metrics


def test_a_site_that_joined_later_has_no_style(tmp_path: Path) -> None:
    """Only images without a style are its own."""
    late = site(tmp_path, "z")
    assert audited(late, request(site_styles=torch.full((6,), -1))).message.copies.shape == (2, 6)
    assert "kid" not in audited(late, request()).metrics
