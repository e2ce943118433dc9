from __future__ import annotations

from typing import Any

import pytest

from fedcore.errors import InputErrors
from fedcore.messages.agreement import Agreement, Facts
from fedcore.server.agreement import agree

OURS = ("fedpretrain 0.1.0", "torch 2.11.0")


def facts(**values: Any) -> Facts:
    said = {"train": 8, "val": 0, "test": 2, "classes": ("cat", "dog"), "channels": 1, "size": (8, 8)}
    return Facts(**{**said, "mask_classes": 0, "without_spacing": 0, "data": "", "versions": OURS, **values})


def complaint(*said: Facts, classes: tuple[str, ...] = ()) -> InputErrors:
    with pytest.raises(InputErrors) as caught:
        agree(dict(zip("abc", said, strict=False)), classes)
    return caught.value


def test_sites_agree_on_all_classes_sorted_and_the_most_channels_and_structures() -> None:
    found = agree({
        "north": facts(classes=("dog",), channels=1, mask_classes=2),
        "south": facts(classes=("ant", "cat"), channels=3, mask_classes=4),
    })  # fmt: skip
    assert found == Agreement(("ant", "cat", "dog"), 3, (8, 8), ("north", "south"), 4)
    assert found.spatial_dims == 2


def test_the_recipe_may_name_the_classes() -> None:
    assert agree({"a": facts(classes=("dog",))}, ("dog", "cat", "eel")).classes == ("dog", "cat", "eel")
    assert agree({"a": facts(classes=())}).classes == ()


def test_a_site_with_a_class_that_the_recipe_does_not_name_is_named_with_it() -> None:
    error = complaint(facts(), facts(classes=("cat", "eel", "fox")), classes=("cat", "dog"))
    assert error.errors == ("b has eel, fox",)
    assert str(error).endswith("The recipe names cat, dog.")


def test_sites_of_other_dimensions_are_named() -> None:
    error = complaint(facts(), facts(size=(8, 8, 8)))
    assert error.errors == ("a has 2D images", "b has 3D images")
    assert "sites differ in dimensions" in str(error)


def test_sites_of_other_sizes_are_named_with_what_to_do() -> None:
    error = complaint(facts(), facts(size=(8, 9)), facts())
    assert error.errors == (
        "a has images of 8 x 8 pixels",
        "b has images of 8 x 9 pixels",
        "c has images of 8 x 8 pixels",
    )
    assert str(error).endswith("Set data.size to one size for all.")


@pytest.mark.parametrize("package", ["fedpretrain", "torch"])
def test_sites_of_other_minor_versions_are_named_with_what_to_do(package: str) -> None:
    other = tuple(f"{package} 9.9.1" if v.startswith(f"{package} ") else v for v in OURS)
    error = complaint(facts(), facts(versions=other))
    assert error.errors[1] == f"b has {package} 9.9"
    assert str(error).endswith(f"Install the same minor version of {package} everywhere.")


def test_a_site_that_does_not_say_its_version_differs() -> None:
    assert complaint(facts(), facts(versions=())).errors[1] == "b has fedpretrain unknown"


def test_sites_may_differ_in_the_last_number_of_a_version_and_in_other_packages() -> None:
    agree({"a": facts(), "b": facts(versions=("torch 2.11.7+cpu", "fedpretrain 0.1.9", "monai 2.0.0"))})


def test_sites_may_differ_in_numbers_of_images_and_in_classes() -> None:
    agree({"a": facts(), "b": facts(train=0, test=900, classes=())})
