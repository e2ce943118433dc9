from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import SGD

from fedcore.algorithms.fedavg import FedAvg
from fedcore.algorithms.properties import share_of
from fedcore.config.recipe import read_recipe
from fedcore.data.dataset import Images
from fedcore.data.loader import loader
from fedcore.errors import InputError, Refused
from fedcore.runs.communication import RoundRecord
from fedcore.seeds import seeded
from fedcore.server.rounds import Rounds, federate
from fedcore.site.site import Round
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.visit import Visit
from fedcore.transport.in_process import InProcess
from fedgen.diffusion.sampler import noise_of
from fedgen.gan.diffaugment import DiffAugment
from fedgen.gan.discriminator import Critic, Shown
from fedgen.gan.gan import GAN, CriticsStay
from fedgen.gan.losses import Wasserstein
from fedgen.generator import ImageShape, dropped_conditions
from fedgen.generator_store import load_generator, save_generator
from fedgen.sampling import sample
from fedgen.training import train
from tests.fedcore.toys import broken, same
from tests.fedcore.toys import images as toy_images
from tests.fedgen.gans import KNOWN, VISIT, gan, left_by, phantoms, stopped_and_resumed, trained

STILL = DiffAugment(0.0, 0.0, 0.0, 0.0)


def central(module: GAN, data: Images, rounds: int) -> dict[str, Tensor]:
    """Plain training of a GAN on one site's images, in the order of its visits; nothing of Lightning, no toggling."""
    for index in range(rounds):
        turn = Round(index, rounds, 0)
        for_painter, for_critic = module.configure_optimizers()
        order = torch.Generator().manual_seed(turn.seed_of(data.site, "order"))
        with seeded(turn.seed_of(data.site)):
            for images, labels in loader(data, VISIT.batch_size, True, True, "labels", order):
                labels, sites = dropped_conditions(labels, torch.zeros_like(labels), module.dropped)
                for _ in range(module.critic_steps):
                    fake = module.painter(torch.randn(len(labels), 4), labels, sites).detach()
                    look = module.augment.draw(images)
                    shown = [Shown(look(x), labels, sites) for x in (images, fake)]
                    for_critic.zero_grad()
                    module.objective.critic(module.critic, *shown).backward()
                    for_critic.step()
                drawn = module.painter(torch.randn(len(labels), 4), labels, sites)
                for_painter.zero_grad()
                score = module.critic(Shown(module.augment.draw(drawn)(drawn), labels, sites))
                (-score.mean()).backward()
                for_painter.step()
                average_by_hand(module, len(labels))
    return module.state_dict()


@torch.no_grad()
def average_by_hand(module: GAN, images: int) -> None:
    decay = min(0.5 ** (images / module.halflife), float((1 + module.steps) / (10 + module.steps)))
    module.steps += 1
    for slow, fast in zip(module.average.parameters(), module.painter.parameters(), strict=True):
        slow.copy_(decay * slow + (1 - decay) * fast)


def federated(module: GAN, sites: dict[str, Images], rounds: int = 2, algorithm: Any = None, **more: Any) -> Any:
    algorithm = algorithm or FedAvg()
    local = LocalTrainer(module, share_of(algorithm, module), more.pop("visit", VISIT))
    transport = InProcess(sites, local)
    state = federate(algorithm, transport, algorithm.start(local), Rounds(rounds), 0, **more)
    return state, transport


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"augment": STILL, "critic_steps": 3, "halflife": 30.0},
        {
            "objective": Wasserstein(),
            "dropped": 0.5,
            "critic_steps": 1,
            "critic": lambda c, k: Critic(c, k, (8, 16), spectral=False),
            "critic_optimizer": lambda p: SGD(p, lr=1e-4),
        },
    ],
)
def test_one_site_is_plain_training(settings: dict[str, Any]) -> None:
    data = toy_images("a")
    state, _ = federated(gan(**settings), {"a": data})
    expected = central(gan(**settings), data, rounds=2)
    assert state.tensors.keys() == expected.keys()
    for name, t in expected.items():
        torch.testing.assert_close(state.tensors[name], t, rtol=1e-4, atol=1e-6)


def test_both_networks_are_averaged_and_so_is_what_draws() -> None:
    sites = {name: toy_images(name, 8 + 4 * at) for at, name in enumerate("abc")}
    state, _ = federated(gan(), sites, rounds=1)
    alone = [federated(gan(), {name: images}, rounds=1)[0] for name, images in sites.items()]
    weights = torch.tensor([8.0, 12.0, 16.0]) / 36
    assert {name.split(".")[0] for name in state.tensors} == {"painter", "average", "critic", "steps"}
    for name, t in state.tensors.items():
        mean = sum(w * other.tensors[name] for w, other in zip(weights, alone, strict=True))
        torch.testing.assert_close(t, mean.to(t.dtype), rtol=1e-4, atol=1e-6)


def test_critics_that_stay_are_each_sites_own() -> None:
    sites = {name: toy_images(name) for name in "ab"}
    state, transport = federated(gan(), sites, algorithm=CriticsStay())
    assert {name.split(".")[0] for name in state.tensors} == {"painter", "average", "steps"}
    own = [transport.memories.get(name)["module/critic.last.layer.weight"] for name in "ab"]
    assert not torch.equal(*own)
    # The critic of the second round is the one that the site was left with after the first.
    once, transport = federated(gan(), {"a": sites["a"]}, rounds=1, algorithm=CriticsStay())
    both, _ = federated(gan(), {"a": sites["a"]}, rounds=1)
    critic = {k.removeprefix("module/"): t for k, t in transport.memories.get("a").items()}
    assert same(critic, {k: t for k, t in both.tensors.items() if k.startswith("critic.")})
    assert same(once.tensors, {k: both.tensors[k] for k in once.tensors})


def test_a_site_whose_loss_is_no_number_is_named_and_the_others_go_on() -> None:
    records: list[RoundRecord] = []
    sites = {"a": toy_images("a"), "b": broken("b")}
    state, _ = federated(gan(), sites, finished=lambda record, _: records.append(record))
    for record in records:
        assert record.refused.keys() == {"b"}
        assert "became nan; a lower learning rate" in record.refused["b"]
        assert record.sites["a"].metrics.keys() == {"loss", "painter_loss"}
    assert all(t.isfinite().all() for t in state.tensors.values())


def test_no_gradients_are_left_and_the_average_gathers_none() -> None:
    module = gan()
    federated(module, {"a": toy_images("a")}, rounds=1)
    assert all(p.grad is None for p in module.parameters())
    assert not any(p.requires_grad for p in module.average.parameters())
    assert all(p.requires_grad for p in [*module.painter.parameters(), *module.critic.parameters()])


def test_a_visit_counts_the_steps_of_both() -> None:
    state, _ = federated(gan(), {"a": toy_images("a")}, rounds=1, visit=Visit(4, max_steps=4, accelerator="cpu"))
    assert float(state.tensors["steps"]) == 2.0


def test_a_step_that_the_module_takes_itself_is_not_clipped() -> None:
    with pytest.raises(
        InputError, match=r"visit\.gradient_clip_val must be null for GAN, which steps its own optimizers"
    ):
        LocalTrainer(gan(), GAN.share, Visit(gradient_clip_val=1.0))


def test_volumes_are_learned_and_drawn(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", data=phantoms(dims=3), rounds=Rounds(1))
    made = load_generator(run.path / "generator")
    assert made.canvas.shape == (1, 16, 16, 16)
    assert len(list((sample(run.path, tmp_path / "set", 2).parent / "images").glob("*.nii.gz"))) == 2


def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    for algorithm in (FedAvg(), CriticsStay()):
        name = type(algorithm).__name__
        whole = left_by(trained(tmp_path / f"{name}_whole", algorithm=algorithm))
        resumed = stopped_and_resumed(tmp_path / name, algorithm=algorithm)
        assert same(left_by(resumed), whole)


def test_a_gan_is_stored_and_drawn_from(tmp_path: Path) -> None:
    module = gan()
    with torch.no_grad():
        for parameter in module.average.parameters():
            parameter += 0.1
    save_generator(tmp_path / "run" / "generator", module.generator)
    made = load_generator(tmp_path / "run" / "generator")
    noise, ones = noise_of(0, range(3), made.noise_shape), torch.ones(3, dtype=torch.int64)
    with torch.no_grad():
        assert torch.equal(made.draw(noise, ones, ones), module.average(noise, ones, ones))
    manifest = sample(tmp_path / "run", tmp_path / "set", 7, batch_size=3)
    assert len(manifest.read_text().splitlines()) == 8
    for asked, said in (
        ({"classes": ["cow"]}, "no class 'cow'; it knows cat, dog"),
        ({"sites": ["d"]}, "no site 'd'"),
    ):
        with pytest.raises(InputError, match=said):
            sample(tmp_path / "run", tmp_path / "other", 1, **asked)


def test_wasserstein_takes_five_steps_of_a_critic_without_spectral_norm() -> None:
    free = partial(Critic, widths=(8, 16), spectral=False)
    assert gan().critic_steps == 1
    assert gan(objective=Wasserstein(), critic=free).critic_steps == 5
    assert gan(objective=Wasserstein(), critic=free, critic_steps=1).critic_steps == 1
    with pytest.raises(InputError, match=r"Wasserstein takes a critic without spectral norm.*spectral false"):
        gan(objective=Wasserstein())


def test_the_recipe_takes_wasserstein() -> None:
    words = ["gan", "--generator.init_args.objective", "fedgen.gan.losses.Wasserstein"]
    words += ["--generator.init_args.critic.init_args.spectral", "false"]
    made = read_recipe(train, "generate train", words).build()["generator"](ImageShape(1, (32, 32)), KNOWN)
    assert (made.critic_steps, made.objective) == (5, Wasserstein())


def test_a_site_that_is_not_known_takes_no_part() -> None:
    with pytest.raises(Refused, match="knows the sites a, b, c and was sent to another"):
        gan().on_visit_start("d", Round(0, 1, 0))


@pytest.mark.parametrize("settings", [{"dropped": 1.0}, {"halflife": -1.0}, {"critic_steps": 0}])
def test_what_cannot_be_built_says_why(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"dropped must lie in \[0, 1\), halflife be 0 or more and critic_steps at"):
        gan(**settings)
