"""The encoders that a run saves are those that the probe measured, whatever an algorithm keeps at its sites."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from fedcore.algorithms.ditto import Ditto
from fedcore.algorithms.fedbn import FedBN
from fedcore.algorithms.fedrep import FedRep
from fedcore.algorithms.local_only import LocalOnly
from fedcore.algorithms.quantised import Quantised
from fedcore.data.phantom.phantoms import Phantoms
from fedcore.data.source import Data
from fedcore.errors import InputError
from fedcore.models.encoder_store import build_encoder, find_encoder
from fedcore.models.features import embed
from fedcore.models.resnet import ResNet
from fedcore.privacy.policy import Policy
from fedcore.runs.folder import RunFolder
from fedcore.server.rounds import Rounds
from fedcore.training.visit import Visit
from fedcore.transport.read_images import read_images
from fedssl.evaluation import probe
from fedssl.federation.fedema import FedEMA
from fedssl.federation.fedu import FedU
from fedssl.methods.byol import BYOL
from fedssl.pretraining import pretrain

DATA = Data(size=16, phantom=Phantoms(sites=2, images_per_site=12))
GLOBAL, OWN = {"encoder"}, {"sites/hospital_1/encoder", "sites/hospital_2/encoder"}


@pytest.mark.parametrize(
    ("algorithm", "saved"),
    [
        (Quantised(FedU(mu=0.0)), GLOBAL),
        (FedRep(head_epochs=1), GLOBAL),
        (FedEMA(), GLOBAL | OWN),
        (Ditto(FedEMA()), GLOBAL | OWN),
        (Ditto(FedBN()), OWN),
        (FedBN(), OWN),
        (LocalOnly(), OWN),
    ],
    ids=lambda part: repr(part) if not isinstance(part, set) else "",
)
def test_the_saved_encoders_are_those_that_were_measured(
    algorithm: Any, saved: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded: dict[str, list[Tensor]] = {"hospital_1": [], "hospital_2": []}

    def recording_embed(encoder: Any, images: Any, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
        features, labels = embed(encoder, images, count, device)
        embedded[images.site].append(features.clone())
        return features, labels

    monkeypatch.setattr(probe, "embed", recording_embed)
    run, method = RunFolder(tmp_path / "run"), partial(BYOL, hidden_dim=8, projection_dim=8)
    pretrain(
        run, partial(ResNet, depth=10, stem=4), method, DATA, algorithm, loggers=(), rounds=Rounds(2),
        visit=Visit(batch_size=9, max_epochs=2, accelerator="cpu"), probe=probe.Probe(every=2),
        policy=Policy(min_patients=1),
    )  # fmt: skip
    assert {str(path.parent.relative_to(run.path)) for path in run.path.rglob("encoder.safetensors")} == saved
    sites = read_images(DATA).split("train")
    for site, measured in embedded.items():
        own = f"sites/{site}/encoder"
        folders = [own if own in saved else "encoder", *(["encoder"] if saved == GLOBAL | OWN else [])]
        trained_on = measured[:: len(measured) // len(folders)]  # the test images follow
        for folder, features in zip(folders, trained_on, strict=True):
            with torch.no_grad():
                found, _ = embed(build_encoder(run.path / folder).eval(), sites[site], 1000, torch.device("cpu"))
            assert torch.allclose(found, features, atol=1e-6), (site, folder)
            assert found.std(0).max() > 0
        with np.load(run.site(site) / "feature_gallery.npz", allow_pickle=False) as gallery:
            kept = torch.from_numpy(gallery["features"]).float()
        assert torch.allclose(normalize(measured[1], dim=1), kept, atol=1e-3)
    if saved >= GLOBAL:
        assert find_encoder(run.path) == run.path / "encoder"
    else:
        with pytest.raises(InputError, match="each site has its own, so name one"):
            find_encoder(run.path)
