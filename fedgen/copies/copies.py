"""Is a drawn image a copy of one that was trained on? Is it nearer to it than images of other patients ever are?

Held-out images of the same site, which go through the same search, say what is nearness without copying.

Found are images as they are or mirrored along any axes, moved by up to a tenth of the side, turned by up to 10 degrees,
zoomed by up to a tenth, inverted, in another window or gamma, with noise, and images of which one half is a copy.
docs/results.md holds how many of each. By `NOT_LOOKED_FOR` a copy may pass, and a datasheet says so.

Where a manifest has no column `patient`, near-equal images of one patient count as those of several, and a copy of one
of them is told less well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from fedgen.copies.matching import Matches, nearest
from fedgen.copies.noise_search import NOISES, Noisy, noisier
from fedgen.copies.pose_search import WHOLE, Posed, Search

NEIGHBOURS = 5
NOT_LOOKED_FOR = (
    "turns above 10 degrees, zooms and shifts above a tenth of the side, stretching and bending",
    "a part smaller than a half, or a half that was cut elsewhere than in the middle",
    "a half that is also turned, zoomed or noisy; strong noise together with a turn, a zoom or a shift",
    "noise with a standard deviation above about 0.8 (black and white are -1 and 1)",
    "an average of several patients",
    "details finer than a thirty-second of the side (of volumes, a sixteenth)",
)
"""Copies that may pass."""
LEAST = 20
"""Held-out images below which no figure is given: their spread sets the limit."""
MOST, LOWEST = 0.55, 0.42
"""Between these a limit of closeness lies, whatever the held-out images are like."""
MOST_OF_HALVES = 0.45
"""Halves of images are more alike by chance, and those that are copied nearer than that."""
DOUBLE = 0.4
"""A held-out image that is nearer is a double of a trained one, and does not help to set the limit."""
HALVES = "halves"
"""How the looks at halves are called."""
NOISY = [f"noise {sd}" for sd in NOISES]
"""How the looks at noisy images are called."""
_CHUNK = 256


@dataclass(frozen=True)
class Near:
    """How near images come to trained ones, and to which."""

    closeness: Float[Tensor, " n"]
    """In [0, 1]; near 0, one image is much nearer than its like are: a copy."""
    nearest: Int[Tensor, " n"]
    """Places of trained images."""


def near(matches: Matches, patients: Int[Tensor, " m"]) -> Near:
    """Closeness: the distance to the nearest trained image over the mean distance to the nearest images of
    `NEIGHBOURS` other patients.

    The ratio (after Carlini et al. 2023, arXiv 2301.13188) leaves out that some images lie in crowded places, where
    everything is near; that of other patients, that one patient has several images which are nearly the same.
    Distances are those of vectors of length 1.
    """
    most, column = matches.similarity.max(1)
    at = matches.at.gather(1, column[:, None])
    first = matches.similarity[:, : matches.first]
    others = first.masked_fill(patients[matches.at[:, : matches.first]] == patients[at], -1)
    around = _distance(others.topk(NEIGHBOURS, 1).values).mean(1)
    return Near((_distance(most) / around.clamp_min(1e-6)).clamp_max(1), at[:, 0])


def _distance(similarity: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    return (2 - 2 * similarity).clamp_min(0).sqrt()


@dataclass(frozen=True)
class PixelLooks:
    """The ways in which pixels are compared: whole images, their ranks, noisy ones, and halves along each axis."""

    patients: Int[Tensor, " m"]
    whole: Mapping[str, Posed]
    noisy: Noisy
    halves: Mapping[int, Posed]
    """By axis, of the first and then the last halves of all images."""

    @staticmethod
    def of(trained: Float[Tensor, "m c *space"], patients: Int[Tensor, " m"]) -> PixelLooks:
        """Of trained images as `fedgen.copies.matching.working` makes them; of more than `NEIGHBOURS` patients."""
        search = WHOLE[trained.dim() - 2]
        whole = {
            "pixels": Posed.of(trained, patients, search),
            "ranks": Posed.of(trained, patients, search, ranked=True),
        }
        twice = torch.cat([patients, patients])
        halves = {
            axis: Posed.of(torch.cat(_halves(trained, axis)), twice, Search()) for axis in range(2, trained.dim())
        }
        return PixelLooks(patients, whole, Noisy.of(trained, patients), halves)

    def __call__(self, images: Float[Tensor, "n c *space"]) -> dict[str, Near]:
        """At images that are to be judged; each is looked at as the one of `NOISES` that it shows."""
        seen, level = near(self.noisy(images), self.patients), self.noisy.level(images)
        levels = [Near(seen.closeness.masked_fill(level != v, 1), seen.nearest) for v in range(len(NOISES))]
        return self._posed(images) | dict(zip(NOISY, levels, strict=True))

    def held_out(self, images: Float[Tensor, "n c *space"]) -> dict[str, Near]:
        """At images that set the limits, made as noisy as those that are to be judged by them."""
        levels = [near(self.noisy(noisier(images, sd)), self.patients) for sd in NOISES]
        return self._posed(images) | dict(zip(NOISY, levels, strict=True))

    def _posed(self, images: Float[Tensor, "n c *space"]) -> dict[str, Near]:
        found = {name: near(match(images), self.patients) for name, match in self.whole.items()}
        twice = torch.cat([self.patients, self.patients])
        for axis, match in self.halves.items():
            one = nearest_of([near(match(half), twice) for half in _halves(images, axis)])
            found[f"{HALVES} of axis {axis - 2}"] = Near(one.closeness, one.nearest % len(self.patients))
        return found


def _halves(images: Float[Tensor, "n c *space"], axis: int) -> list[Float[Tensor, "n c *half"]]:
    size = images.shape[axis]
    return [images.narrow(axis, 0, size // 2), images.narrow(axis, size - size // 2, size // 2)]


def nearest_of(looks: list[Near]) -> Near:
    """By the look that is closest for each image."""
    least = torch.stack([one.closeness for one in looks]).min(0)
    return Near(least.values, torch.stack([one.nearest for one in looks]).gather(0, least.indices[None])[0])


def near_by_features(
    features: Float[Tensor, "n d"], trained: Float[Tensor, "m d"], patients: Int[Tensor, " m"]
) -> Near:
    """By the angle between features."""
    to, whose = normalize(trained, dim=1), patients.unique(return_inverse=True)[1]
    parts = []
    for part in features.split(_CHUNK):
        likeness = normalize(part, dim=1) @ to.T
        at, first = nearest(likeness, whose)
        parts.append(near(Matches(likeness.gather(1, at), at, first), patients))
    return Near(torch.cat([one.closeness for one in parts]), torch.cat([one.nearest for one in parts]))


@dataclass(frozen=True)
class Copies:
    """Which of the drawn images are copies, by one view."""

    suspects: Bool[Tensor, " n"]
    limit: float
    """Of closeness."""
    held: float
    """Part of the held-out images below the limit. Well above 0, training and held-out images share a patient or are
    doubled."""


def limit_of(held: Float[Tensor, " h"], deviations: float = 5.0, most: float = MOST) -> float:
    """Closeness below which an image is a copy: far below what it is for other patients' images.

    Far: `deviations` times the held-out images' lower spread (median to the 16 % quantile) below their median, on a
    log scale. Their minimum would be no limit: a perfect generator draws below the smallest of h values once in h + 1
    images. Held-out images that are doubles themselves (`DOUBLE`) are left out first, else many of them would hide all
    copies. Between `LOWEST` and `most`.
    """
    log = held[held >= DOUBLE].log()
    if not len(log):
        return LOWEST
    median, low = log.median(), log.quantile(0.16)
    return min(most, max(LOWEST, float((median - deviations * (median - low)).exp())))


def copies(drawn: Float[Tensor, " n"], held: Float[Tensor, " h"], deviations: float = 5.0) -> Copies:
    """Drawn images whose closeness to the trained ones is below the limit of the held-out images' (`limit_of`).

    Args:
        drawn: Closeness of the drawn images.
        held: Closeness of the held-out images, by the same look.
        deviations: More let more pass.
    """
    limit = limit_of(held, deviations)
    return Copies(drawn < limit, limit, float((held < limit).double().mean()))


def together(drawn: Mapping[str, Near], held: Mapping[str, Near], deviations: float = 5.0) -> tuple[Near, Near, Copies]:
    """Several looks as one: each with a limit of its own, closenesses scaled so that their limits are the first one's.

    An image is a copy if it is one by any look. `drawn` and `held` as `PixelLooks` and its `held_out` give them; what
    is said of the held-out images leaves out that they were made noisy.
    """
    limits = {
        name: limit_of(one.closeness, deviations, MOST_OF_HALVES if name.startswith(HALVES) else MOST)
        for name, one in held.items()
    }
    common = next(iter(limits.values()))
    as_they_are = [name for name in limits if name not in NOISY[1:]]
    seen, other = (
        nearest_of([_scaled(looks[name], common / limits[name]) for name in names])
        for looks, names in ((drawn, list(limits)), (held, as_they_are))
    )
    share = float((other.closeness < common).double().mean())
    return seen, other, Copies(seen.closeness < common, common, share)


def _scaled(one: Near, factor: float) -> Near:
    return Near((one.closeness * factor).clamp_max(1), one.nearest)
