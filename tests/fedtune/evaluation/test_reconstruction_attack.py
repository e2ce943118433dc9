"""A reconstruction attack: sent counts and sums cannot be solved for patients' scores; bootstrap draws can.

The attacker knows all public seeds, the number of patients of a site, and their order. It takes each tensor with one
row per draw for sums over patients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor

from fedcore.data.dataset import Images
from fedcore.messages.answer import Contribution
from fedcore.messages.message import Weights, flatten
from fedcore.messages.round import Round
from fedcore.models.base import Encoder
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.visit import Visit
from fedtune.classification.classifier import Classifier
from fedtune.evaluation.classification import EvaluateClassifier
from fedtune.evaluation.counts import SCORE_BINS, Counts, cell_indices
from fedtune.evaluation.segmentation import SiteSums
from fedtune.evaluation.segmentation_metrics import sum_by_patient, withheld_structures
from tests.fedcore.toys import Hospitals

PATIENTS, DRAWS = 60, 200


def multiplicities(turn: Round, site: str) -> Tensor:
    """(1 + draws, patients): how often each patient is in each draw, from the public seed."""
    generator = torch.Generator().manual_seed(turn.seed_of(site, "bootstrap"))
    drawn = torch.randint(PATIENTS, (DRAWS, PATIENTS), generator=generator)
    times = torch.zeros(DRAWS, PATIENTS, dtype=torch.int64).scatter_add_(1, drawn, torch.ones_like(drawn))
    return torch.cat([torch.ones(1, PATIENTS, dtype=torch.int64), times])


def solve(sent: Mapping[str, Tensor], times: Tensor) -> dict[str, Tensor]:
    """Scores of patients, by least squares, where sums over draws determine them.

    One row of sums is all that a tensor without draws gives; a patient is determined where no other scores have the
    same sums, so where the unit vector of the patient is a combination of rows.
    """
    found = {}
    for name, tensor in sent.items():
        of_draws = tensor.dim() > 0 and len(tensor) == len(times)
        rows = times if of_draws else times[:1]
        basis = torch.linalg.svd(rows.double(), full_matrices=False)
        span = basis.Vh[basis.S > 1e-9]
        known = (span**2).sum(0) > 1 - 1e-9
        if known.all():
            found[name] = torch.linalg.lstsq(rows.double(), tensor.double().flatten(1)).solution
    return found


def possible_bins(histogram: Tensor, times: Tensor) -> list[list[int]]:
    """The bins that each patient's score may be in: those whose counts are never below the patient's multiplicity."""
    rows = histogram if len(histogram) == len(times) else histogram[None]
    rows = rows.reshape(len(rows), -1)
    return [(times[: len(rows), i, None] <= rows).all(0).nonzero().flatten().tolist() for i in range(PATIENTS)]


@pytest.fixture
def evaluation(toy: Callable[[], Encoder], images: Callable[..., Images]) -> tuple[Contribution, Tensor, Tensor]:
    """A site's contribution to an evaluation, and the logits and labels that it never sends."""
    module = Classifier(toy(), 2)
    with torch.no_grad():
        module.head.weight *= 30
    tests = {"a": images([0, 1] * (PATIENTS // 2))}
    local = LocalTrainer(module, ("encoder.", "head."), Visit(accelerator="cpu"))
    (contribution,) = Hospitals(tests, local, tests).ask(
        EvaluateClassifier(), [("a", Weights(local.shared()))], Round(0, 1, 0)
    )
    assert isinstance(contribution, Contribution)
    with torch.no_grad():
        return contribution, module.eval()(tests["a"].batch(range(PATIENTS))), tests["a"].labels


def test_bootstrap_histograms_reveal_scores_and_sent_histograms_do_not(
    evaluation: tuple[Contribution, Tensor, Tensor],
) -> None:
    contribution, logits, labels = evaluation
    times = multiplicities(Round(0, 1, 0), "a")
    mine = cell_indices(logits, labels).histogram[:, 1]
    drawn = torch.zeros(len(times), 2 * SCORE_BINS, dtype=torch.int64).index_add_(1, mine, times)
    assert possible_bins(drawn, times) == [[at] for at in mine.tolist()]  # every patient's score is found
    sent = flatten(contribution.message)
    assert possible_bins(sent["counts/histogram"][1], times) == [sorted(set(mine.tolist()))] * PATIENTS
    assert len(set(mine.tolist())) > 10
    assert solve({"drawn": drawn}, times).keys() == {"drawn"}
    assert solve(sent, times) == {}


def test_only_counts_depend_on_patients(evaluation: tuple[Contribution, Tensor, Tensor]) -> None:
    """Patients whose scores change places leave every tensor as it is, and no scalar leaves at all."""
    contribution, logits, labels = evaluation
    sent = flatten(contribution.message)
    assert contribution.metrics == {}
    assert not [name for name, t in sent.items() if PATIENTS in t.shape or DRAWS + 1 in t.shape]
    assert sent["design_effects"].tolist() == [1.0] * 3  # every patient has one image
    order = torch.cat([torch.randperm(30) * 2, torch.randperm(30) * 2 + 1]).view(2, 30).T.flatten()
    turned: Counts = cell_indices(logits[order], labels).count()
    assert not torch.equal(logits[order], logits)
    assert all(torch.equal(sent[f"counts/{name}"], t) for name, t in flatten(turned).items())


def sent_sums(values: Tensor) -> dict[str, Tensor]:
    patients = torch.arange(PATIENTS)
    return flatten(SiteSums(sum_by_patient(values, patients, 10), withheld_structures(values, patients, 10)))


def test_bootstrap_sums_reveal_scores_and_sent_sums_do_not() -> None:
    values = 0.2 + 0.6 * torch.rand(PATIENTS, 3, 2).double()
    times = multiplicities(Round(0, 1, 0), "a")
    drawn = torch.einsum("rn,nmk->rmk", times.double(), values)
    torch.testing.assert_close(solve({"total": drawn}, times)["total"].view_as(values), values, atol=1e-9, rtol=0)
    assert solve(sent_sums(values), times) == {}


def test_other_scores_of_every_patient_have_the_same_sums() -> None:
    """Turned about the mean of all, each patient scores differently, and nothing that leaves differs."""
    values = 0.4 + 0.2 * torch.rand(PATIENTS, 3, 2).double()
    around = torch.linalg.qr(torch.cat([torch.ones(PATIENTS, 1), torch.randn(PATIENTS, PATIENTS - 1)], 1).double()).Q
    turn = torch.linalg.qr(torch.randn(PATIENTS - 1, PATIENTS - 1).double()).Q
    rotation = around @ torch.block_diag(torch.ones(1, 1).double(), turn) @ around.T
    other = torch.einsum("nm,mxk->nxk", rotation, values)
    assert (other - values).abs().amin(0).max() > 1e-5
    assert (other - values).abs().median() > 0.02
    assert 0 < other.min() < other.max() < 1
    sent, again = sent_sums(values), sent_sums(other)
    for name, tensor in sent.items():
        torch.testing.assert_close(again[name], tensor, atol=0, rtol=1e-6)


def test_the_only_patient_with_many_images_is_not_revealed() -> None:
    """Two sums that weight patients equally and by images would be two equations for the two kinds of patients."""
    patients = torch.cat([torch.arange(PATIENTS - 1), torch.full((40,), PATIENTS - 1)])
    values = 0.4 + 0.2 * torch.rand(len(patients), 3, 1).double()
    n = torch.bincount(patients).double()
    s = torch.zeros(PATIENTS).double().index_add_(0, patients, values[:, 0, 0])
    both = torch.stack([torch.ones(PATIENTS).double(), n])
    a, b = (both @ s).tolist()
    assert (b - a) / 39 == pytest.approx(float(s[-1]))
    other = values.clone()
    other[-40:] += 0.01
    other[:-40] -= 0.4 / (PATIENTS - 1)
    kinds = [
        flatten(SiteSums(sum_by_patient(v, patients, 10), withheld_structures(v, patients, 10)))
        for v in (values, other)
    ]
    differing = {name for name in kinds[0] if not torch.allclose(kinds[0][name], kinds[1][name])}
    assert differing <= {"sums/squared_deviations"}
