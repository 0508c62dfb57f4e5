"""Prints problems as JSON lines: `python -m recipe.problems SPLIT COUNT [SEED]`.

`models/sample.jsonl` is the output of `python -m recipe.problems test 60`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from itertools import islice

from recipe.problems.drawing import Split, draw


def main(arguments: Sequence[str]) -> None:
    """Print the first problems of a split."""
    if len(arguments) not in (2, 3) or arguments[0] not in list(Split):
        sys.exit(f"usage: python -m recipe.problems {'|'.join(Split)} COUNT [SEED]")
    seed = int(arguments[2]) if len(arguments) > 2 else 0  # noqa: PLR2004 - split, count, seed
    for story in islice(draw(Split(arguments[0]), seed=seed), int(arguments[1])):
        print(json.dumps({"question": story.question, "reference": str(story.answer)}))


if __name__ == "__main__":
    main(sys.argv[1:])
