"""A classifier and test images of three sites, and its scores there."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from fedcore.data.dataset import Images
from fedcore.messages.request import EVALUATE
from fedcore.models.base import Encoder
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.visit import Visit
from fedtune.classification.classifier import Classifier
from fedtune.evaluation.classification import ClassificationScores, EvaluateClassifier, evaluate_classifier
from tests.fedcore.toys import Hospitals

SIZES = {"a": 40, "b": 25, "c": 12}


@pytest.fixture
def local(toy: Callable[[], Encoder]) -> LocalTrainer:
    module = Classifier(toy(), 3)
    with torch.no_grad():
        module.head.weight *= 10  # a trained head's log-odds fill many of the bins
    return LocalTrainer(module, ("encoder.", "head."), Visit(accelerator="cpu"))


@pytest.fixture
def tests(images: Callable[..., Images]) -> dict[str, Images]:
    generator = np.random.default_rng(0)
    return {name: images(generator.integers(0, 3, n).tolist(), name=name) for name, n in SIZES.items()}


def evaluated(hospitals: Hospitals, grades: Sequence[int] = (), per_patient: bool = False) -> ClassificationScores:
    """The scores of the classifier that the hospitals have."""
    sites = hospitals.sites(**{EVALUATE: EvaluateClassifier(grades=grades, per_patient=per_patient)})
    return evaluate_classifier(sites, hospitals.local.shared(), 0, hospitals.policy, grades, per_patient)
