"""Builds a classifier for the classes that server and sites have agreed on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fedcore.data.findings import findings_of, is_multi_label
from fedcore.errors import InputError, building
from fedcore.messages.agreement import Agreement
from fedcore.models.base import Encoder
from fedcore.models.encoder_store import load_encoder
from fedcore.seeds import seeded
from fedtune.classification.classifier import Classifier


def build_classifier(
    agreement: Agreement, encoder: Callable[[int, int], Encoder], classifier: Callable[[Encoder, int], Classifier],
    seed: int, encoder_folder: Path | None = None,
) -> Classifier:  # fmt: skip
    """A classifier for these images, with the encoder's weights from `encoder_folder` if given.

    Raises:
        InputError: There are fewer than two classes, or no finding, or images have several findings and the classifier
            learns one class per image.
    """
    findings = findings_of(agreement.classes)

    def build(num_classes: int) -> Classifier:
        with seeded(seed), building("the classifier or its encoder"):
            backbone = encoder(agreement.spatial_dims, agreement.channels)
            if encoder_folder:
                load_encoder(encoder_folder, backbone)
            return classifier(backbone, num_classes)

    module = build(max(1, len(findings)))
    if module.targets == "findings":
        if not findings:
            raise InputError(
                "a multi-label classifier needs at least 1 finding, the images have "
                f"{list(agreement.classes) or 'no labels'}; give the manifest a column 'label'"
            )
        return module
    if len(agreement.classes) < 2:
        raise InputError(
            f"a classifier needs at least 2 classes, the images have {list(agreement.classes) or 'no labels'}; "
            "give the manifest a column 'label'"
        )
    if is_multi_label(agreement.classes):
        raise InputError(
            "the labels have several findings per image, as in 'A|B', and the classifier takes one class per image; "
            "use the recipe classify_multilabel, or set classifier.init_args.loss to "
            "fedtune.classification.losses.BinaryCrossEntropy"
        )
    return module if len(findings) == len(agreement.classes) else build(len(agreement.classes))


def target_classes(module: Classifier, agreement: Agreement) -> tuple[str, ...]:
    """The classes that the classifier learns: findings if it is multi-label."""
    return findings_of(agreement.classes) if module.targets == "findings" else agreement.classes
