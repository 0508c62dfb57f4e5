"""Ids that workers derive are a contract between versions that run side by side during an upgrade.

What a worker sends twice has the same ids, also after an upgrade in between, or it would be booked twice. The expected
ids are spelled out in `tests/unit/golden/derived`, computed without the code under test. They never change.
"""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from shared.cancellation import Cancellation
from shared.engines.port import EngineFailed
from shared.messages import GenerateSteps, ScoreSteps, StepsGenerated, StepsScored, WorkCancelled, WorkFailed
from tests.unit.worker.working import GOLDEN, Outbox, Scripted, carry_out, golden

IDS: dict[str, Any] = json.loads((GOLDEN / "derived" / "ids.v1.json").read_text())
WRITTEN, SCORED = IDS["generate_steps"], IDS["score_steps"]


def places(message: GenerateSteps | ScoreSteps | StepsGenerated) -> str:
    assert not isinstance(message, GenerateSteps)
    return f"{message.drafts[0].index}..{message.drafts[-1].index}"


def test_drafts_and_the_messages_that_carry_them_have_their_golden_ids() -> None:
    *_, stretch = carry_out(golden(GenerateSteps), Scripted("One.", "Two.", "Three."))
    assert isinstance(stretch, StepsGenerated)
    assert {str(draft.index): str(draft.id) for draft in stretch.drafts} == WRITTEN["drafts"]
    assert str(stretch.id) == WRITTEN["steps_generated"]["stretch 2..4"]
    one, *_, without_words = carry_out(golden(GenerateSteps), Scripted("One.", "Two.", "..."))
    assert isinstance(one, ScoreSteps)
    assert (places(one), str(one.id)) == ("2..2", WRITTEN["score_steps"]["2..2"])
    assert isinstance(without_words, StepsGenerated)
    assert str(without_words.id) == WRITTEN["steps_generated"]["4..4"]


def test_drafts_that_share_a_message_have_its_golden_id() -> None:
    outbox = Outbox(confirms=False)
    scorings = [
        message
        for message in carry_out(golden(GenerateSteps), Scripted("One.", "Two.", "Three."), outbox=outbox)
        if isinstance(message, ScoreSteps)
    ]
    assert [(places(each), str(each.id)) for each in scorings] == [
        (place, WRITTEN["score_steps"][place]) for place in ("2..2", "3..4")
    ]


def test_drafts_that_are_not_scored_have_the_golden_id_of_generated_steps() -> None:
    command = golden(GenerateSteps, results_to="events", prefix=("a", "b", "c", "d"))
    generated, *_ = carry_out(command, Scripted("Five."))
    assert isinstance(generated, StepsGenerated)
    assert (places(generated), str(generated.id)) == ("4..4", WRITTEN["steps_generated"]["4..4"])


def test_failures_and_cancellations_have_their_golden_ids() -> None:
    *_, failed = carry_out(golden(GenerateSteps), Scripted("One.", EngineFailed()))
    assert isinstance(failed, WorkFailed)
    assert str(failed.id) == WRITTEN["work_failed"]
    cancellation = Cancellation()
    *_, cancelled = carry_out(golden(GenerateSteps), Scripted(cancellation.cancel, "One."), cancellation=cancellation)
    assert isinstance(cancelled, WorkCancelled)
    assert str(cancelled.id) == WRITTEN["work_cancelled"]
    [failed] = carry_out(golden(ScoreSteps), Scripted(EngineFailed()))
    assert isinstance(failed, WorkFailed)
    assert str(failed.id) == SCORED["work_failed"]


def test_scores_have_their_golden_ids() -> None:
    [scored] = carry_out(golden(ScoreSteps), Scripted())
    assert isinstance(scored, StepsScored)
    assert (str(scored.id), str(scored.scoring.id)) == (SCORED["steps_scored"], SCORED["scoring"])


def test_a_scoring_gets_as_much_time_as_its_command_had_from_the_moment_it_is_requested() -> None:
    command = golden(GenerateSteps, step_timeout_s=20.0)
    first, *_ = carry_out(command, Scripted("One."), late_s=50.0)
    assert isinstance(first, ScoreSteps)
    assert first.issued_at == command.issued_at + timedelta(seconds=50)
    assert first.expires_at == first.issued_at + timedelta(seconds=60)
    assert first.step_timeout_s == command.step_timeout_s
