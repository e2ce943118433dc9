from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from fedcore.aggregation.mean import Mean
from fedcore.errors import InputError
from fedgen.gan.discriminator import ConditionedImages, Discriminator, SpectralNorm
from fedgen.generator import UNCONDITIONED, Conditions, ImageShape
from tests.fedcore.toys import contribution

CONDITIONS = Conditions(("cat", "dog"), ("a", "b", "c"))


def discriminator(size: tuple[int, ...] = (8, 12), spectral_norm: bool = True) -> Discriminator:
    torch.manual_seed(0)
    return Discriminator(ImageShape(1, size), CONDITIONS, widths=(8, 16), spectral_norm=spectral_norm)


def batch(count: int = 4, size: tuple[int, ...] = (8, 12)) -> ConditionedImages:
    random = torch.Generator().manual_seed(1)
    indices = [torch.arange(count) % n for n in (2, 3)]
    return ConditionedImages(torch.rand(count, 1, *size, generator=random) * 2 - 1, *indices)


@pytest.mark.parametrize("size", [(8, 12), (4, 8, 12)])
@pytest.mark.parametrize("spectral_norm", [True, False])
def test_a_score_depends_on_one_image_alone(size: tuple[int, ...], spectral_norm: bool) -> None:
    made, images = discriminator(size, spectral_norm).eval(), batch(size=size)
    alone = ConditionedImages(images.images[2:3], images.labels[2:3], images.sites[2:3])
    scores = made(images)
    assert scores.shape == (4,)
    assert torch.allclose(made(alone), scores[2:3], atol=1e-5)


def test_the_score_is_the_papers_projection() -> None:
    """psi(phi) + <y, phi> with y of length one, image by image."""
    made = discriminator(spectral_norm=False).eval()
    features: list[Tensor] = []
    made.last.register_forward_hook(lambda _, given, __: features.append(given[0]))
    images = batch(3)
    scores = made(images)
    for i in range(3):
        y = (
            made.condition_embedding.classes.weight[images.labels[i]]
            + made.condition_embedding.sites.weight[images.sites[i]]
        )
        phi = features[0][i]
        expected = made.last.weight[0] @ phi + made.last.bias[0] + y @ phi / y.norm()
        assert float(scores[i].detach()) == pytest.approx(float(expected.detach()), rel=1e-4)


def test_the_score_depends_on_class_and_site() -> None:
    made, one = discriminator().eval(), batch(1).images
    conditions = [(label, site) for label in (0, 1, UNCONDITIONED) for site in (0, 1, 2, UNCONDITIONED)]
    scores = {
        round(float(made(ConditionedImages(one, *map(torch.tensor, ([l], [s])))).detach()), 6) for l, s in conditions
    }
    assert len(scores) == 12


@pytest.mark.parametrize("layer", [nn.Linear(7, 5), nn.Conv2d(3, 4, 3), nn.Conv3d(2, 4, 3)])
def test_sigma_is_the_largest_singular_value(layer: nn.Module) -> None:
    made = SpectralNorm(layer)
    for _ in range(200):
        sigma = made.sigma()
    expected = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)
    assert float(sigma.detach()) == pytest.approx(float(expected), rel=1e-3)


def test_the_output_is_the_layers_divided_by_its_norm() -> None:
    made, x = SpectralNorm(nn.Linear(7, 5, bias=False)).eval(), torch.randn(3, 7)
    assert torch.allclose(made(x), made.layer(x) / made.sigma())
    grown = copy.deepcopy(made)
    with torch.no_grad():
        grown.layer.weight *= 8
    assert torch.allclose(grown(x), made(x), atol=1e-6)


def test_only_training_improves_the_estimate() -> None:
    made = SpectralNorm(nn.Linear(7, 5)).eval()
    before = made.v.clone()
    made(torch.randn(2, 7))
    assert torch.equal(made.v, before)
    made.train()(torch.randn(2, 7))
    assert not torch.equal(made.v, before)


def test_the_mean_of_the_sites_estimates_is_an_estimate() -> None:
    """Two sites that trained from one state: the server's layer has an accurate norm, whatever the length of the
    averaged vector is."""
    server = SpectralNorm(nn.Linear(7, 5, bias=False))
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
        sigma = server.sigma()
        server.v *= 0.3
        assert torch.allclose(server.sigma(), sigma)


def test_a_discriminator_can_be_pickled() -> None:
    made, images = discriminator().eval(), batch()
    assert torch.equal(pickle.loads(pickle.dumps(made))(images), made(images))  # noqa: S301


def test_the_error_of_a_size_names_sizes_that_fit() -> None:
    with pytest.raises(InputError, match=r"a discriminator of 2 levels .* multiples of 2, got 8 x 13; set .* 8 x 12"):
        discriminator((8, 13))
