from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from fedcore.aggregation.mean import Mean
from fedcore.errors import InputError
from fedgen.gan.discriminator import Critic, Shown, Spectral
from fedgen.generator import UNCONDITIONED, Conditions, ImageShape
from tests.fedcore.toys import contribution

KNOWN = Conditions(("cat", "dog"), ("a", "b", "c"))


def critic(size: tuple[int, ...] = (8, 12), spectral: bool = True) -> Critic:
    torch.manual_seed(0)
    return Critic(ImageShape(1, size), KNOWN, widths=(8, 16), spectral=spectral)


def shown(count: int = 4, size: tuple[int, ...] = (8, 12)) -> Shown:
    random = torch.Generator().manual_seed(1)
    places = [torch.arange(count) % n for n in (2, 3)]
    return Shown(torch.rand(count, 1, *size, generator=random) * 2 - 1, *places)


@pytest.mark.parametrize("size", [(8, 12), (4, 8, 12)])
@pytest.mark.parametrize("spectral", [True, False])
def test_a_score_is_that_of_one_image(size: tuple[int, ...], spectral: bool) -> None:
    made, images = critic(size, spectral).eval(), shown(size=size)
    alone = Shown(images.images[2:3], images.labels[2:3], images.sites[2:3])
    scores = made(images)
    assert scores.shape == (4,)
    assert torch.allclose(made(alone), scores[2:3], atol=1e-5)


def test_the_score_is_the_papers_projection() -> None:
    """psi(phi) + <y, phi>: two images of other features differ in what another class makes of them, linearly."""
    made = critic(spectral=False).eval()
    features: list[Tensor] = []
    made.last.register_forward_hook(lambda _, given, __: features.append(given[0]))
    images = shown(3)
    scores = made(images)
    for i in range(3):
        y = made.asked.classes.weight[images.labels[i]] + made.asked.sites.weight[images.sites[i]]
        phi = features[0][i]
        expected = made.last.weight[0] @ phi + made.last.bias[0] + y @ phi / y.norm()
        assert float(scores[i].detach()) == pytest.approx(float(expected.detach()), rel=1e-4)


def test_class_and_site_are_heard() -> None:
    made, one = critic().eval(), shown(1).images
    asked = [(label, site) for label in (0, 1, UNCONDITIONED) for site in (0, 1, 2, UNCONDITIONED)]
    scores = {round(float(made(Shown(one, *map(torch.tensor, ([l], [s])))).detach()), 6) for l, s in asked}
    assert len(scores) == 12


@pytest.mark.parametrize("layer", [nn.Linear(7, 5), nn.Conv2d(3, 4, 3), nn.Conv3d(2, 4, 3)])
def test_the_norm_is_the_largest_singular_value(layer: nn.Module) -> None:
    made = Spectral(layer)
    for _ in range(200):
        sigma = made.sigma()
    expected = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)
    assert float(sigma.detach()) == pytest.approx(float(expected), rel=1e-3)


def test_a_layer_of_norm_one_answers_as_the_layer_would_by_its_norm() -> None:
    made, x = Spectral(nn.Linear(7, 5, bias=False)).eval(), torch.randn(3, 7)
    assert torch.allclose(made(x), made.layer(x) / made.sigma())
    grown = copy.deepcopy(made)
    with torch.no_grad():
        grown.layer.weight *= 8
    assert torch.allclose(grown(x), made(x), atol=1e-6)


def test_only_training_makes_the_guess_better() -> None:
    made = Spectral(nn.Linear(7, 5)).eval()
    before = made.v.clone()
    made(torch.randn(2, 7))
    assert torch.equal(made.v, before)
    made.train()(torch.randn(2, 7))
    assert not torch.equal(made.v, before)


def test_an_average_of_sites_guesses_is_a_guess() -> None:
    """Two sites that trained from one state: the server's layer knows its norm as well as theirs do, and more so
    whatever the length of the averaged vector is."""
    server = Spectral(nn.Linear(7, 5, bias=False))
    for _ in range(50):
        server.sigma()
    sites = []
    for seed in (1, 2):
        site = copy.deepcopy(server)
        with torch.no_grad():
            change = torch.randn(5, 7, generator=torch.Generator().manual_seed(seed))
            site.layer.weight += 0.02 * change
        site.sigma()
        sites.append(contribution(str(seed), **site.state_dict()))
    server.load_state_dict(Mean().combine(sites, server.state_dict()))
    largest = float(torch.linalg.matrix_norm(server.layer.weight.detach(), 2))
    assert float(server.eval().sigma().detach()) == pytest.approx(largest, rel=1e-2)
    with torch.no_grad():
        known = server.sigma()
        server.v *= 0.3
        assert torch.allclose(server.sigma(), known)


def test_a_critic_can_be_sent_to_a_process() -> None:
    made, images = critic().eval(), shown()
    assert torch.equal(pickle.loads(pickle.dumps(made))(images), made(images))  # noqa: S301


def test_sizes_that_cannot_be_reached_are_refused_with_those_that_can() -> None:
    with pytest.raises(
        InputError, match=r"a critic of 2 levels .* multiples of 2, the images are 8 x 13; set .* 8 x 12"
    ):
        critic((8, 13))
