from __future__ import annotations

import pytest
import torch

from fedtune.evaluation.counts import cell_indices
from fedtune.evaluation.patients import average_by_patient
from fedtune.evaluation.scores import compute_scores


def test_the_mean_of_probabilities_equals_a_loop() -> None:
    logits, patients = torch.randn(30, 3), torch.randint(8, (30,))
    labels = patients % 3
    found, truth, who = average_by_patient(logits, labels, patients)
    assert who.tolist() == sorted(set(patients.tolist()))
    for row, label, patient in zip(found, truth, who, strict=True):
        mean = logits[patients == patient].double().softmax(1).mean(0)
        torch.testing.assert_close(row.softmax(0), mean)
        assert int(label) == int(patient) % 3


def test_a_patient_has_each_finding_of_any_image() -> None:
    logits, patients = torch.randn(5, 2), torch.tensor([4, 4, 9, 9, 9])
    findings = torch.tensor([[0, 1], [0, 0], [0, 0], [1, 0], [0, 0]], dtype=torch.uint8)
    found, truth, who = average_by_patient(logits, findings, patients)
    assert who.tolist() == [4, 9]
    assert truth.tolist() == [[0, 1], [1, 0]]
    torch.testing.assert_close(found[1].sigmoid(), logits[2:].double().sigmoid().mean(0))


def test_a_patient_has_the_most_frequent_class() -> None:
    _, truth, _ = average_by_patient(torch.zeros(5, 3), torch.tensor([2, 0, 2, 1, 0]), torch.tensor([7, 7, 7, 8, 8]))
    assert truth.tolist() == [2, 0]


def test_one_image_per_patient_or_copies_change_nothing() -> None:
    logits, labels, patients = torch.randn(40, 4), torch.randint(4, (40,)), torch.arange(40)
    once = compute_scores(cell_indices(logits, labels).count())
    for times in (1, 3):
        found, truth, _ = average_by_patient(*(t.repeat_interleave(times, 0) for t in (logits, labels, patients)))
        for name, value in compute_scores(cell_indices(found, truth).count()).items():
            assert float(value) == pytest.approx(float(once[name]))


def test_extreme_logits_stay_finite() -> None:
    logits = torch.tensor([[1e4, -1e4], [1e4, -1e4]])
    for truth in (torch.tensor([0, 0]), torch.tensor([[1, 0], [1, 0]])):
        assert average_by_patient(logits, truth, torch.tensor([1, 1]))[0].isfinite().all()
