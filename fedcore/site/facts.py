"""What a site says of its images before the first round."""

from __future__ import annotations

from fedcore.data.dataset import Images
from fedcore.messages.agreement import Facts
from fedcore.privacy.policy import Policy
from fedcore.runs.environment import versions


def facts_of(
    train: Images, test: Images | None, policy: Policy, classes: tuple[str, ...] = (), mask_classes: int = 0,
    data: str = "", val: int = 0,
) -> Facts:  # fmt: skip
    """Counts as the policy lets them be known.

    Args:
        train: Training images.
        test: Test images, if there are any.
        policy: The site's.
        classes: Names of its classes.
        mask_classes: One more than the highest number in its masks.
        data: Digest of its images.
        val: Number of validation images.
    """
    held, unknown = (0, 0) if test is None else (len(test), test.without_spacing)
    return Facts(
        policy.counted(len(train)), policy.counted(val), policy.counted(held), classes, train.channels, train.space,
        mask_classes, policy.counted(unknown), data, versions(),
    )  # fmt: skip
