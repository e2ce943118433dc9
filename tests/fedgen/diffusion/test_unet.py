from __future__ import annotations

import pytest
import torch

from fedcore.errors import InputError
from fedgen.diffusion.unet import UNet


@pytest.mark.parametrize(("dims", "size"), [(2, (16, 24)), (3, (8, 12, 16))])
@pytest.mark.parametrize("attention", [False, True])
def test_the_output_has_the_images_size_and_its_own_channels(dims: int, size: tuple[int, ...], attention: bool) -> None:
    torch.manual_seed(0)
    net = UNet(dims, in_channels=2, out_channels=3, widths=(8, 16), attention=attention)
    output = net(torch.randn(2, 2, *size), torch.tensor([3.0, 900.0]), torch.randn(2, net.condition_width))
    assert output.shape == (2, 3, *size)


@pytest.mark.parametrize(("dims", "size"), [(2, (8, 8)), (3, (8, 8, 8))])
def test_the_output_depends_on_time_and_condition(dims: int, size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    net = UNet(dims, 1, widths=(8, 16))
    # MONAI initialises the last convolution with 0, so every output is 0 before training.
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    image, time, condition = torch.randn(1, 1, *size), torch.tensor([10.0]), torch.randn(1, net.condition_width)
    output = net(image, time, condition)
    assert not torch.allclose(output, net(image, time + 500, condition), atol=1e-5)
    assert not torch.allclose(output, net(image, time, condition + 1), atol=1e-5)
    assert torch.equal(output, net(image, time, condition))


def test_the_network_has_no_buffers_and_no_dependence_between_images() -> None:
    torch.manual_seed(0)
    net = UNet(2, 1, widths=(8, 16))
    assert not list(net.buffers())
    images, times, condition = torch.randn(3, 1, 8, 8), torch.tensor([1.0, 2.0, 3.0]), torch.randn(3, 32)
    alone = net(images[1:2], times[1:2], condition[1:2])
    assert torch.allclose(net(images, times, condition)[1:2], alone, atol=1e-5)


def test_the_error_of_a_size_names_sizes_that_fit() -> None:
    net = UNet(3, 1, widths=(8, 16, 32))
    net.require_size((8, 12, 64))
    with pytest.raises(InputError, match=r"multiples of 4, got 35 x 50 x 36; set data.size to 32 x 48 x 36"):
        net.require_size((35, 50, 36))
    with pytest.raises(InputError, match=r"or 36 x 52 x 40"):
        net.require_size((35, 50, 37))
    with pytest.raises(InputError, match=r"set data.size to 4 x 4 x 4 or 4 x 4 x 4"):
        net.require_size((2, 2, 2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"spatial_dims": 4, "in_channels": 1}, "spatial_dims must be 2 or 3, got 4"),
        ({"spatial_dims": 2, "in_channels": 1, "widths": (12, 16)}, "widths must be multiples of 8, got 12"),
        ({"spatial_dims": 2, "in_channels": 1, "widths": (0,)}, "widths must be multiples of 8, got 0"),
    ],
)
def test_invalid_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UNet(**settings)  # type: ignore[arg-type]
