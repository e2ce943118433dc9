from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from fedcore.algorithms.ditto import Ditto
from fedcore.algorithms.fedbn import FedBN
from fedcore.algorithms.local_only import LocalOnly
from fedcore.augment.views import Views
from fedcore.data.phantom.phantoms import Phantoms
from fedcore.data.source import Data
from fedcore.errors import InputError
from fedcore.messages.message import Weights
from fedcore.messages.reveals import Reveals
from fedcore.models.encoder_store import build_encoder, find_encoder
from fedcore.models.resnet import ResNet
from fedcore.privacy.policy import Policy
from fedcore.runs.checkpoint import Checkpoint
from fedcore.runs.folder import RunFolder
from fedcore.server.rounds import Rounds
from fedcore.training.visit import Visit
from fedssl.bank.statistics import ShareStatistics
from fedssl.bank.vectors import ShareVectors
from fedssl.methods.base import Method
from fedssl.methods.moco import MoCo
from fedssl.methods.simclr import SimCLR
from fedssl.pretraining import pretrain

ENCODER = partial(ResNet, depth=10, stem=8)
IMAGES = Data(size=32, phantom=Phantoms(sites=2, images_per_site=24))
VOLUMES = Data(size=16, phantom=Phantoms(sites=2, images_per_site=8, spatial_dims=3))
MOCO = partial(MoCo, bank_size=32, remote_bank_size=32, hidden_dim=16, projection_dim=8)


def run_pretraining(
    folder: Path, method: Callable[..., Method] = SimCLR, data: Data = IMAGES, **more: Any
) -> RunFolder:
    run, visit = RunFolder(folder), Visit(batch_size=8, accelerator="cpu")
    pretrain(run, ENCODER, method, data, visit=visit, **({"rounds": Rounds(2), "loggers": ()} | more))
    return run


def without_time(run: RunFolder) -> list[dict[str, Any]]:
    """The recorded rounds without their durations."""
    records = run.rounds()
    for record in records:
        record.pop("seconds")
        for site in record["sites"].values():
            site.pop("seconds")
    return records


def assert_finished(run: RunFolder) -> None:
    assert run.about()["status"] == "finished"
    assert [(r["round"], r["refused"]) for r in run.rounds()] == [(0, {}), (1, {})]
    encoder = build_encoder(run.path / "encoder").eval()
    dims = len(run.about()["size"])
    assert encoder(torch.zeros(2, 1, *[32] * dims)).isfinite().all()


@pytest.mark.parametrize(
    ("method", "data", "more"),
    [
        (SimCLR, IMAGES, {}),
        (MOCO, IMAGES, {}),
        (MOCO, IMAGES, {"exchange": ShareVectors(upload_size=8, remote_features=8, encoding="int8")}),
        (MOCO, IMAGES, {"exchange": ShareStatistics(remote_features=16, min_patients=8)}),
        (MOCO, VOLUMES, {"exchange": ShareStatistics(remote_features=16, min_patients=2)}),
    ],
    ids=["simclr", "moco", "moco vectors", "moco statistics", "moco statistics 3D"],
)
def test_two_rounds_are_reproducible_exactly(
    tmp_path: Path, method: Callable[..., Method], data: Data, more: dict[str, Any]
) -> None:
    reveals = "STATISTICS"  # of the mean loss and the probe's scores
    if exchange := more.get("exchange"):
        reveals = "FEATURES" if isinstance(exchange, ShareVectors) else "STATISTICS"
        more["policy"] = Policy(Reveals[reveals], min_patients=1)
    runs = []
    for name in ("first", "second"):
        torch.rand(7)  # the state of the caller's generator must not matter
        runs.append(run_pretraining(tmp_path / name, method, data, **more))
        assert_finished(runs[-1])
    first, second = (run.path / "encoder/encoder.safetensors" for run in runs)
    assert first.read_bytes() == second.read_bytes()
    assert without_time(runs[0]) == without_time(runs[1])
    assert {site["reveals"] for r in runs[0].rounds() for site in r["sites"].values()} == {reveals}
    assert f"Most sensitive data sent: **{reveals}**" in (runs[0].path / "encoder/README.md").read_text()


def test_the_saved_encoder_is_the_servers_and_depends_on_the_seed(tmp_path: Path) -> None:
    run = run_pretraining(tmp_path / "a", SimCLR)
    server = Checkpoint.open(run.path / "state").restore(Weights({})).tensors
    saved = safetensors.torch.load_file(run.path / "encoder/encoder.safetensors")
    assert all(torch.equal(server[f"encoder.{k}"], t) for k, t in saved.items())
    other = safetensors.torch.load_file(
        run_pretraining(tmp_path / "b", SimCLR, seed=1).path / "encoder/encoder.safetensors"
    )
    assert not torch.equal(saved["conv1.weight"], other["conv1.weight"])


def test_every_site_saves_a_few_images_and_their_views_in_its_folder(tmp_path: Path) -> None:
    run = run_pretraining(tmp_path / "run", SimCLR)
    for site in run.about()["sites"]:
        with np.load(run.site(site) / "augmented_views.npz", allow_pickle=False) as samples:
            assert samples["images"].shape == (6, 1, 32, 32)
            assert samples["views"].shape == (6, 2, 1, 32, 32)
            assert np.abs(samples["views"]).max() <= 1


def test_local_training_sends_no_weights_and_saves_an_encoder_per_site(tmp_path: Path) -> None:
    run = run_pretraining(tmp_path / "run", MOCO, algorithm=LocalOnly())
    up = [site["up"] for record in run.rounds() for site in record["sites"].values()]
    assert all(sent["weights"] == sent["exchange"] == 0 < sent["metrics"] for sent in up)
    assert not (run.path / "encoder").exists()
    sites = list(run.about()["sites"])
    states = [build_encoder(run.site(name) / "encoder").state_dict() for name in sites]
    assert not torch.equal(states[0]["conv1.weight"], states[1]["conv1.weight"])
    for name, state in zip(sites, states, strict=True):
        memory = run.memories().get(name)
        assert all(torch.equal(memory[f"module/encoder.{k}"], t) for k, t in state.items())
        assert f"at {name} only" in (run.site(name) / "encoder/README.md").read_text()


def test_with_fedbn_each_site_has_its_own_encoder(tmp_path: Path) -> None:
    run = run_pretraining(tmp_path / "run", SimCLR, algorithm=FedBN())
    assert not (run.path / "encoder").exists()
    (note,) = run.about()["notes"]
    assert "encoder's" in note
    assert "there is no common encoder; each site has its own in sites/SITE/encoder" in note
    sites = list(run.about()["sites"])
    first, second = (build_encoder(run.site(name) / "encoder").state_dict() for name in sites)
    for name, tensor in first.items():
        if "running_mean" in name:
            assert tensor.abs().max() > 0
            assert not torch.equal(tensor, second[name])
        if name.endswith("num_batches_tracked"):
            assert tensor > 0
        if tensor.dim() > 1:  # of convolutions
            assert torch.equal(tensor, second[name]), name
    with pytest.raises(InputError, match=rf"each site has its own, so name one: .*sites/{sites[0]}/encoder"):
        find_encoder(run.path)
    card = (run.site(sites[0]) / "encoder/README.md").read_text()
    assert f"with federated learning, the version of {sites[0]}" in card


def test_personal_encoders_are_saved_in_addition_to_the_global_one(tmp_path: Path) -> None:
    run = run_pretraining(tmp_path / "run", SimCLR, algorithm=Ditto())
    global_state = build_encoder(run.path / "encoder").state_dict()
    server = Checkpoint.open(run.path / "state").restore(Weights({})).tensors
    assert all(torch.equal(server[f"encoder.{k}"], t) for k, t in global_state.items())
    for name in run.about()["sites"]:
        memory = run.memories().get(name)
        own = build_encoder(run.site(name) / "encoder").state_dict()
        assert all(torch.equal(memory[f"personal/encoder.{k}"], t) for k, t in own.items())
    assert run.about()["notes"] == []


def test_a_site_that_was_never_trained_has_no_encoder(tmp_path: Path) -> None:
    run = run_pretraining(tmp_path / "run", SimCLR, algorithm=LocalOnly(), rounds=Rounds(1, per_round=1))
    (visited,) = [name for name, record in run.rounds()[0]["sites"].items() if record["examples"]]
    (other,) = set(run.about()["sites"]) - {visited}
    assert run.about()["notes"] == [f"no encoder of {other}: nothing was trained there"]
    assert (run.site(visited) / "encoder").exists()
    assert not (run.site(other) / "encoder").exists()


@pytest.fixture
def one_image_site(tmp_path: Path) -> Data:
    """A manifest without labels of two sites, one of which has a single training image."""
    rng, lines = np.random.default_rng(0), ["image,site,split,patient"]
    for at in range(9):
        np.save(tmp_path / f"{at}.npy", rng.random((32, 32)).astype(np.float32))
        lines.append(f"{at}.npy,{'small' if at == 0 else 'large'},train,p{at}")
    (tmp_path / "manifest.csv").write_text("\n".join(lines))
    return Data(manifest=str(tmp_path / "manifest.csv"), size=32)


def test_a_site_with_one_image_takes_part_in_simclr(tmp_path: Path, one_image_site: Data) -> None:
    run = run_pretraining(tmp_path / "run", SimCLR, one_image_site)
    assert_finished(run)
    assert {site: r["examples"] for site, r in run.rounds()[-1]["sites"].items()} == {"large": 8, "small": 1}


def test_other_sites_continue_if_batch_norm_cannot_train_on_one_image(tmp_path: Path, one_image_site: Data) -> None:
    """The query batch of MoCo has one image, whose last feature map at 32 x 32 is one number per channel."""
    run = run_pretraining(tmp_path / "run", MOCO, one_image_site)
    assert run.about()["status"] == "finished"
    for record in run.rounds():
        assert "batch norm needs more than one value" in record["refused"]["small"]
        assert record["sites"]["large"]["examples"] == 8


def test_no_run_starts_with_rejected_options_or_without_training_images(tmp_path: Path, one_image_site: Data) -> None:
    with pytest.raises(InputError, match=r"the method .* cannot be built: the capacity of a feature bank .* got 0"):
        run_pretraining(tmp_path / "run", partial(MoCo, bank_size=0))
    manifest = tmp_path / "manifest.csv"
    manifest.write_text(manifest.read_text().replace(",train,", ",test,"))
    with pytest.raises(InputError, match="no site has a training image; give some rows of the manifest the split"):
        run_pretraining(tmp_path / "run", SimCLR, one_image_site)
    assert not (tmp_path / "run").exists()


def test_no_run_starts_that_would_fail_at_the_end_or_at_every_site(tmp_path: Path) -> None:
    class NotSerialisable(ResNet):
        def __init__(self, dims: int, channels: int):
            super().__init__(dims, channels, depth=10, stem=8)
            self.config |= {"layer": torch.nn.Linear}

    run, visit = RunFolder(tmp_path / "run"), Visit(accelerator="cpu")
    with pytest.raises(InputError, match=r"encoder: `config` of NotSerialisable must contain numbers, texts and lists"):
        pretrain(run, NotSerialisable, SimCLR, IMAGES, visit=visit)
    with pytest.raises(InputError, match=r"views\.flip must be one number or 2, one per axis, got 3"):
        run_pretraining(tmp_path / "run", partial(SimCLR, views=Views(flip=(0.5, 0.5, 0.5))))
    with pytest.raises(InputError, match=r"the optimizer of SimCLR cannot be built: Invalid learning rate"):
        run_pretraining(tmp_path / "run", partial(SimCLR, optimizer=lambda p: torch.optim.SGD(p, lr=-1.0)))
    assert not (tmp_path / "run" / "run.json").exists()


def test_no_run_starts_that_the_policy_forbids(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"SiteVectors reveals FEATURES, the policy allows STATISTICS; set policy"):
        run_pretraining(tmp_path / "run", MOCO, exchange=ShareVectors())
    assert not (tmp_path / "run").exists()
