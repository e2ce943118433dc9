"""Held-out patients: the test split of a manifest without a column `split`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fedcore.data.manifest.row import Row


def held_out_patients(sites: Mapping[str, Sequence[Row]], fraction: float, seed: int) -> set[str]:
    """A fraction of each site's patients: at least one, and never all of them.

    A patient of two sites who is held out at one is held out at the other too.

    Args:
        sites: Rows by site.
        fraction: In [0, 1); 0 holds out nobody.
        seed: Which patients are held out.
    """
    held_out: set[str] = set()
    for site in sorted(sites):
        patients = sorted({row.patient for row in sites[site]})
        rng = np.random.default_rng([seed, *site.encode()])
        count = min(max(1, round(fraction * len(patients))), len(patients) - 1) if fraction else 0
        held_out |= {patients[at] for at in rng.permutation(len(patients))[:count]}
    return held_out
