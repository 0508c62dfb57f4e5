"""A worker adds the steps that a command leaves out, if it knows them; otherwise it asks for them."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from uuid import UUID

from services.generator.writing import Writing
from shared.bus.topology import Past
from shared.clock import SYSTEM_CLOCK
from shared.domain.roles import WorkerRole
from shared.domain.text import prefix_digest
from shared.messages import Command, GenerateSteps, PrefixMissing, ScoreSteps
from shared.worker.executor import Executor
from shared.worker.known_prefixes import OVERHEAD_BYTES, KnownPrefixes
from shared.worker.running_work import RunningWork
from tests.unit.worker.working import Outbox, Scripted, golden

TEXTS = tuple(f"Step {index}." for index in range(12))


def after(*texts: str, omit: int = 0, problem: int = 1) -> GenerateSteps:
    """Return a command that continues steps, without the first ones."""
    whole = golden(GenerateSteps, problem_id=UUID(int=problem), reports_stretch=False, results_to="events")
    digest = prefix_digest(whole.question, texts)
    return whole.with_prefix(texts, omit=omit).model_copy(update={"prefix_digest": digest})


def completed(known: KnownPrefixes, command: Command) -> tuple[str, ...] | None:
    whole = known.complete(command)
    if whole is None:
        return None
    assert whole.omitted_steps == 0
    assert whole.prefix_digest == prefix_digest(command.question, whole.prefix)
    return whole.prefix


def test_a_worker_adds_what_it_knows_from_the_commands_before() -> None:
    known = KnownPrefixes()
    assert completed(known, after(*TEXTS[:3])) == TEXTS[:3]
    assert completed(known, after(*TEXTS[:5], omit=3)) == TEXTS[:5], "the end of what it knows"
    assert completed(known, after(*TEXTS[:9], omit=2)) == TEXTS[:9], "the middle"
    assert completed(known, after(*TEXTS, omit=12)) is None
    assert completed(known, after(*TEXTS[:9], omit=9)) == TEXTS[:9], "all of it"


def test_steps_that_are_not_known_are_never_made_up() -> None:
    known = KnownPrefixes()
    assert completed(known, after(*TEXTS[:3], omit=1)) is None
    assert completed(known, after(*TEXTS[:3], problem=2)) == TEXTS[:3]
    assert completed(known, after(*TEXTS[:3], omit=1)) is None, "that was another problem"


def test_a_step_that_was_written_again_is_not_taken_for_the_draft_before() -> None:
    known = KnownPrefixes()
    known.complete(after(*TEXTS[:4]))
    rewritten = (*TEXTS[:2], "Rewritten.", "Continued.")
    assert completed(known, after(*rewritten, omit=3)) is None
    assert completed(known, after(*rewritten, omit=2)) == rewritten


def test_a_worker_reports_how_much_it_knows_and_less_each_time_until_the_command_is_whole() -> None:
    known = KnownPrefixes()
    assert known.count_known(after(*TEXTS, omit=12)) == 0
    known.complete(after(*TEXTS[:5]))
    assert known.count_known(after(*TEXTS, omit=12)) == 5, "what it knows ends before what is left out"
    rewritten = ("Rewritten.", *TEXTS[1:])
    known.complete(after(*rewritten))
    counts = [12]
    while counts[-1]:
        counts.append(known.count_known(after(*TEXTS, omit=counts[-1])))
    assert counts == [12, 8, 0], "it knows as many steps of another branch"


def test_a_whole_prefix_needs_no_digest() -> None:
    command = after(*TEXTS[:2]).model_copy(update={"prefix_digest": ""})
    assert completed(KnownPrefixes(), command) == TEXTS[:2]


def test_the_problems_that_were_used_longest_ago_are_forgotten() -> None:
    size = 2 * OVERHEAD_BYTES + len(TEXTS[0])
    known = KnownPrefixes(max_bytes=2 * size)
    for problem in (1, 2, 1, 3):
        known.complete(after(TEXTS[0], problem=problem))
    held = [completed(known, after(*TEXTS[:2], omit=1, problem=problem)) for problem in (1, 2, 3)]
    assert held == [TEXTS[:2], None, None], "the second step of the first problem takes the place of the third problem"


def test_problems_without_steps_take_room_too() -> None:
    known = KnownPrefixes(max_bytes=10 * OVERHEAD_BYTES)
    known.complete(after(*TEXTS[:2]))
    for problem in range(2, 12):
        known.complete(after(problem=problem))
    assert completed(known, after(*TEXTS[:3], omit=2)) is None


def executor_with(engine: Scripted) -> Executor:
    return Executor(
        role=WorkerRole.SMALL,
        worker="worker-1",
        clock=SYSTEM_CLOCK,
        begin=partial(Writing, engine=engine),
        running=RunningWork(),
    )


def test_a_command_that_cannot_be_completed_is_handed_back_and_carried_out_when_it_comes_whole() -> None:
    executor, outbox, settled = executor_with(Scripted("Next.")), Outbox(), list[bool]()
    now = SYSTEM_CLOCK.now()
    short = after(*TEXTS, omit=4).model_copy(update={"issued_at": now, "expires_at": now + timedelta(minutes=1)})
    past = Past(runs=2, losses=1, alone=1)

    def carry_out(command: GenerateSteps) -> None:
        settle = lambda *, requeue: settled.append(requeue)  # noqa: E731 - a protocol
        assert list(executor.carry_out(command, b"", publisher=outbox, settle=settle, past=past)) is not None

    executor.prefixes.complete(after(*TEXTS[:2]))
    carry_out(short)
    (missing,) = outbox.messages
    assert isinstance(missing, PrefixMissing)
    assert (missing.command, missing.problem_id, missing.epoch) == (short, short.problem_id, short.epoch)
    assert missing.known_steps == 2
    assert (missing.runs, missing.losses, missing.alone) == (past.runs, past.losses, past.alone)
    assert settled == [False]

    carry_out(short.with_prefix(TEXTS))
    assert [draft.text for message in outbox.messages[1:] for draft in message.drafts] == ["Next."]  # type: ignore[union-attr]
    assert settled == [False, False]


def test_commands_to_the_prm_leave_out_what_its_workers_know_but_never_a_step_of_the_stretch() -> None:
    outbox = Outbox(confirms=False)
    command = golden(GenerateSteps, scored_prefix=2, reports_stretch=False, max_steps=3).with_prefix(TEXTS[:5])
    now = SYSTEM_CLOCK.now()
    command = command.model_copy(update={"issued_at": now, "expires_at": now + timedelta(minutes=1)})
    executor = executor_with(Scripted("One.", "Two.", "Three."))
    for _ in executor.carry_out(command, b"", publisher=outbox, settle=lambda *, requeue: None):
        outbox.confirm()
    scorings = [message for message in outbox.messages if isinstance(message, ScoreSteps)]
    written = (*TEXTS[:5], "One.", "Two.", "Three.")
    for scoring in scorings:
        first = scoring.drafts[0].index
        carried = max(2, first - 5)
        assert (scoring.first_step, scoring.omitted_steps) == (first, first - carried)
        assert scoring.version == 2
        assert scoring.prefix == written[first - carried : first]
        assert scoring.prefix_digest == prefix_digest(command.question, written[:first])
    assert [scoring.drafts[0].index for scoring in scorings] == [5, 6, 7]
