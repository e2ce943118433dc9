"""`fedpretrain generate`: train a generator together, draw sets of images from it."""

from __future__ import annotations

from collections.abc import Sequence

from fedcore.errors import InputError
from fedcore.nearest import nearest
from fedcore.words import call
from fedgen.sample import sample

USAGE = """usage: fedpretrain generate train [RECIPE] [--KEY VALUE ...]   hospitals train a generator together
       fedpretrain generate sample RUN FOLDER [--count 1000]   draws a set of images, with a manifest"""


def command(arguments: Sequence[str]) -> int:
    match list(arguments):
        case ["sample", *rest]:
            print(call(sample, "generate sample", rest))
            print("not audited: images of patients may be among them, so let them stay where the generator is")
        case ["-h" | "--help"] | []:
            print(USAGE)
        case [word, *_]:
            raise InputError(f"generate has no command {word!r}{nearest(word, ['train', 'sample'])}\n{USAGE}")
    return 0
