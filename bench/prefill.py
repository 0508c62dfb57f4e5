"""Counts the tokens that the PRM on vLLM computes at each step of a long solution: `python -m bench.prefill`.

It needs an environment with vLLM. The last line is a JSON list: tokens computed at step 1, 2, and so on.
"""

from __future__ import annotations

import json
from contextlib import closing
from itertools import islice
from uuid import uuid4

from bench.vllm_on_cpu import ARGUMENTS
from recipe.problems.drawing import Split, draw
from shared.cancellation import Cancellation
from shared.engines.factory import make_scorer
from shared.engines.port import Meter, ScoringRequest
from shared.settings import Settings

STEPS = 12


def main() -> None:
    """Score the steps one by one, as the service does."""
    stories = list(islice(draw(Split.TEST), STEPS))
    steps = [step for story in stories for step in story.steps][:STEPS]
    problem_id, computed = uuid4(), []
    with closing(make_scorer(Settings(engine="vllm", vllm_args=dict(ARGUMENTS)))) as prm:
        for end in range(1, STEPS + 1):
            request = ScoringRequest(
                problem_id=problem_id,
                question=stories[0].question,
                steps=tuple(steps[:end]),
                newest=1,
                timeout_s=60,
            )
            computed.append(prm.score(request, Cancellation(), Meter()).tokens)
    print(json.dumps(computed))


if __name__ == "__main__":
    main()
