from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from fedcore.algorithms.base import Algorithm
from fedcore.algorithms.fedavg import FedAvg
from fedcore.algorithms.local_only import LocalOnly
from fedcore.algorithms.properties import share_of
from fedcore.algorithms.quantised import Quantised
from fedcore.errors import InputError
from fedcore.messages.message import Weights
from fedcore.messages.round import Round
from fedcore.runs.checkpoint import Checkpoint
from fedcore.runs.folder import RunFolder
from fedcore.server.rounds import Rounds
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.visit import Visit
from fedgen.diffusion.diffusion import Diffusion
from fedgen.diffusion.unet import UNet
from fedgen.federated.feddiffuse import HALVES, UDec, ULatDec, USplit, half_of, part_of
from fedgen.generator import Conditions, ImageShape
from fedgen.sampling import sample
from tests.fedcore.federating import same
from tests.fedcore.toys import Hospitals, hospitals
from tests.fedgen.test_training import trained
from tests.stopping import killed_in

NAMES = ("a", "b", "c")
TURN = Round(0, 9, 0)


def module(dims: int = 2, widths: tuple[int, ...] = (8, 16), sites: tuple[str, ...] = NAMES) -> Diffusion:
    """As in `trained`, whose phantoms have four classes."""
    torch.manual_seed(0)
    return Diffusion(ImageShape(1, (8,) * dims), Conditions(("w", "x", "y", "z"), sites), partial(UNet, widths=widths))


def sites(algorithm: Algorithm) -> Hospitals:
    made = module()
    return Hospitals(hospitals(), LocalTrainer(made, share_of(algorithm, made), Visit(batch_size=4, accelerator="cpu")))


def parameters(made: Diffusion) -> dict[str | None, int]:
    """Of the network and its embeddings, by part."""
    found: dict[str | None, int] = {}
    for name, t in made.denoiser.named_parameters(prefix="denoiser"):
        found[part_of(name)] = found.get(part_of(name), 0) + t.numel()
    return found


@pytest.mark.parametrize(
    ("dims", "expected"),
    [
        (2, {"encoder": 381_888, "bottleneck": 624_384, "decoder": 1_442_721, None: 21_888}),
        (3, {"encoder": 1_064_448, "bottleneck": 1_870_336, "decoder": 4_042_209, None: 21_888}),
    ],
)
def test_every_tensor_of_both_networks_belongs_to_a_part(dims: int, expected: dict[str | None, int]) -> None:
    made = module(dims, (32, 64, 128))
    assert parameters(made) == expected
    rest = {name for name in made.state_dict() if part_of(name) is None}
    inside = {name.split(".")[3] for name in rest if ".unet." in name}
    assert inside <= {"time_embedding", "time_embed"}
    outside = {name for name in rest if ".unet." not in name}
    assert outside == {
        "ema_steps",
        *(f"{m}.condition_embedding.{t}.weight" for m in ("denoiser", "ema") for t in ("classes", "sites")),
    }


@pytest.mark.parametrize("count", range(2, 8))
def test_each_round_has_both_halves_from_each_pair_of_sites(count: int) -> None:
    names = [str(n) for n in range(count)]
    for index in range(20):
        sent = [half_of(name, names, Round(index, 20, 0)) for name in names]
        assert abs(sent.count(HALVES[0]) - sent.count(HALVES[1])) == count % 2


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_each_site_sends_both_halves_about_equally_often(count: int) -> None:
    names = [str(n) for n in range(count)]
    for name in names:
        times = sum(half_of(name, names, Round(index, 400, 7)) == HALVES[0] for index in range(400))
        assert 160 <= times <= 240


def test_a_round_of_usplit_equals_loops() -> None:
    """Every tensor is the mean of FedAvg's visits over the sites that sent it, weighted by their images."""
    algorithm, plain = USplit(), sites(FedAvg())
    state = FedAvg().start(plain.local)
    whole: dict[str, Any] = {c.site: c for c in plain.ask(FedAvg(), [(name, state) for name in NAMES], TURN)}
    halves = sites(algorithm)
    merged = algorithm.merge(state, halves.ask(algorithm, [(name, state) for name in NAMES], TURN)).tensors
    assert merged.keys() == state.tensors.keys()
    for name, t in merged.items():
        senders = [whole[s] for s in NAMES if part_of(name) in (None, *half_of(s, NAMES, TURN))]
        assert len(senders) in ((3,) if part_of(name) is None else (1, 2))
        images = sum(c.examples for c in senders)
        expected = sum(c.examples * c.message.tensors[name].double() for c in senders) / images
        torch.testing.assert_close(t.double(), torch.as_tensor(expected), rtol=1e-5, atol=1e-6)


def test_a_half_travels_with_its_ema_and_the_rest_stays_unchanged() -> None:
    algorithm, transport = USplit(), sites(USplit())
    state = algorithm.start(transport.local)
    (one,) = transport.ask(algorithm, [("a", state)], TURN)
    sent = one.message.tensors
    half = half_of("a", NAMES, TURN)
    assert {part_of(name) for name in sent} == {None, *half}
    twins = {name.replace("denoiser.", "ema.") for name in sent if name.startswith("denoiser.")}
    assert twins == {name for name in sent if name.startswith("ema.")}
    merged = algorithm.merge(state, iter([one])).tensors
    assert all(torch.equal(t, sent.get(name, state.tensors[name])) for name, t in merged.items())


@pytest.mark.parametrize(("algorithm", "stays"), [(ULatDec(), {"encoder"}), (UDec(), {"encoder", "bottleneck"})])
@pytest.mark.parametrize("dims", [2, 3])
def test_local_parts_are_in_no_message(algorithm: Any, stays: set[str], dims: int) -> None:
    made = module(dims)
    shared = share_of(algorithm, made)
    assert {part_of(name) for name in shared} == {"encoder", "bottleneck", "decoder", None} - stays
    assert share_of(Quantised(algorithm), made) == shared
    kept = made.state_dict().keys() - LocalTrainer(made, shared).shared().keys()
    assert {part_of(name) for name in kept} == stays


@pytest.mark.parametrize("algorithm", [USplit(), ULatDec(), UDec()])
def test_another_network_is_refused(algorithm: Any) -> None:
    made = module()
    made.denoiser.unet.net = made.ema.unet.net = nn.Linear(1, 1)
    with pytest.raises(InputError, match=r"fedgen.diffusion.unet.UNet; Diffusion has no .*decoder"):
        algorithm.start(LocalTrainer(made, share_of(algorithm, made)))


def stopped_and_resumed(folder: Path, algorithm: Algorithm) -> RunFolder:
    with killed_in(1):
        trained(folder, algorithm=algorithm)
    return trained(folder, resume=True, algorithm=algorithm)


def state(run: RunFolder) -> dict[str, dict[str, Tensor]]:
    """All tensors of a run: of the server, the sites, the generators."""
    return {str(p.relative_to(run.path)): safetensors.torch.load_file(p) for p in run.path.rglob("*.safetensors")}


@pytest.mark.parametrize("algorithm", [Quantised(USplit()), Quantised(UDec())], ids=["halves", "decoder"])
def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path, algorithm: Algorithm) -> None:
    whole = state(trained(tmp_path / "whole", algorithm=algorithm))
    resumed = state(stopped_and_resumed(tmp_path / "run", algorithm))
    assert resumed.keys() == whole.keys()
    assert all(same(resumed[name], whole[name]) for name in whole)


def test_messages_have_the_size_of_their_parts(tmp_path: Path) -> None:
    made = parameters(module(sites=("hospital_1", "hospital_2")))
    every, rest = sum(made.values()), made[None]
    parts = [made["encoder"] + made["bottleneck"] + rest, made["decoder"] + rest]
    for algorithm, up, down in (
        (FedAvg(), [every, every], every),
        (USplit(), parts, every),
        (ULatDec(), [every - made["encoder"]] * 2, every - made["encoder"]),
        (UDec(), [made["decoder"] + rest] * 2, made["decoder"] + rest),
    ):
        (turn,) = trained(tmp_path / type(algorithm).__name__, algorithm=algorithm, rounds=Rounds(1)).rounds()
        found = [turn["sites"][name] for name in ("hospital_1", "hospital_2")]
        # Weights and their EMA as float32, and the number of steps as float64.
        assert sorted(site["up"]["weights"] for site in found) == sorted(8 * n + 8 for n in up)
        assert [site["down"]["weights"] for site in found] == [8 * down + 8] * 2


@pytest.mark.parametrize(("algorithm", "common"), [(UDec(), ("decoder", None)), (LocalOnly(), ())])
def test_each_site_has_its_own_generator_if_a_part_stays_local(
    tmp_path: Path, algorithm: Algorithm, common: tuple[str | None, ...]
) -> None:
    run = trained(tmp_path / "run", algorithm=algorithm)
    assert not (run.path / "generator").exists()
    folders = [run.site(f"hospital_{n}") for n in (1, 2)]
    ours, theirs = (safetensors.torch.load_file(f / "generator" / "generator.safetensors") for f in folders)
    alike = {name for name in ours if torch.equal(ours[name], theirs[name])}
    assert alike == {name for name in ours if part_of(f"ema.{name}") in common}
    memory = run.memories().get("hospital_1")
    server = Checkpoint.open(run.path / "state").restore(Weights({})).tensors
    for name, t in ours.items():
        assert torch.equal(t, server[f"ema.{name}"] if name in alike else memory[f"module/ema.{name}"])


def test_a_set_comes_from_one_of_them_or_from_all(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", algorithm=UDec(), rounds=Rounds(1))
    manifest = sample(run.site("hospital_1"), tmp_path / "one", 2, sites=["hospital_1"], steps=2)
    assert manifest.read_text().count("hospital_1") == 2
    manifest = sample(run.path, tmp_path / "all", 8, steps=2)
    assert [manifest.read_text().count(site) for site in ("hospital_1", "hospital_2")] == [4, 4]


@pytest.mark.slow
def test_workers_train_the_same(tmp_path: Path) -> None:
    alone = state(trained(tmp_path / "alone", algorithm=Quantised(USplit())))
    together = state(trained(tmp_path / "together", algorithm=Quantised(USplit()), workers=2))
    assert all(same(together[name], alone[name]) for name in alone)
