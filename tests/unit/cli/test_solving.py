"""`trim solve` and `trim problems` against a service that answers at once."""

from __future__ import annotations

import json
from typing import Any, NoReturn

import httpx2
import pytest
from typer.testing import CliRunner, Result

from cli.app import app
from cli.entry import main
from cli.errors import Interrupted
from cli.reasons import BECAUSE, figure, sentence
from services.api.schemas.values import REASONS
from tests.unit.cli.fake_service import FakeService
from tests.unit.client import samples
from tests.unit.client.samples import PROBLEM_ID
from tests.unit.client.service import answer, events
from trim_client import Decision


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> FakeService:
    made = FakeService()
    made.install(monkeypatch)
    return made


def trim(*arguments: str, exit_code: int = 0, **more: Any) -> Result:
    ended = CliRunner().invoke(app, arguments, catch_exceptions=False, **more)
    assert ended.exit_code == exit_code, ended.output
    return ended


SOLVED = """\
step author    score text, and the decision on its draft
   0 small       0.9 First, 6 times 7.
                     kept: its PRM score 0.9 is at least the threshold 0.5
   1 large         - So \\boxed{42}.
                     As \\x1b[31mred\\x1b[0m.
                     draft: A wrong draft.
                     rewritten by the large model: the draft's PRM score 0.031 is below the threshold 0.5

answer    42
verdict   correct (the reference is 42)
steps     2, with 1 escalation to the large model
tokens    large 20, small 55 (15 not used), PRM 200
time      0.0 s, after 0.0 s in the queue
problem   0193ad2e-6a1c-7cc3-98c4-dc0c0c07398f
"""


def test_solve_prints_each_step_with_its_author_its_score_and_the_reason(service: FakeService) -> None:
    ended = trim("solve", "What is 6 times 7?", "--reference", "42", "--threshold", "0.5", "--lookahead", "2",
                 "--temperature", "0", "--seed", "3", "--deadline", "60")  # fmt: skip
    assert ended.stdout == SOLVED
    assert "Not up: prm. The problem waits if it needs them.\n" in ended.stderr
    assert service.bodies("POST /v1/problems") == [
        {
            "question": "What is 6 times 7?",
            "reference": "42",
            "policy": {"name": "threshold", "parameters": {"threshold": 0.5}},
            "lookahead": 2,
            "sampling": {"temperature": 0, "seed": 3},
            "deadline_s": 60,
        }
    ]


def test_solve_prints_events_as_lines_of_json(service: FakeService) -> None:
    lines = [json.loads(line) for line in trim("solve", "What?", "--json").stdout.splitlines()]
    assert [each["event"] for each in lines] == ["submitted", "decision", "step", "decision", "step", "end"]
    assert lines[-1]["problem"] == samples.problem(
        "succeeded", reference="42", verdict="correct", note="Written by models."
    )


def test_solve_reads_a_question_from_standard_input(service: FakeService) -> None:
    trim("solve", "-", input="What is\n6 times 7?\n")
    assert service.bodies("POST /v1/problems") == [{"question": "What is\n6 times 7?"}]


def test_a_problem_without_a_solution_is_exit_code_1(service: FakeService) -> None:
    failed = samples.problem(
        "failed", answer=None, failure={"code": "attempts_exhausted", "detail": "The large model gave up."}
    )
    service.answers[f"GET /v1/problems/{PROBLEM_ID}/events"] = lambda _: events(("end", "end", failed))
    for command in (["solve", "What?"], ["problems", "watch", str(PROBLEM_ID)]):
        shown = trim(*command, exit_code=1).stdout
        assert "status    failed\nfailure   attempts_exhausted: The large model gave up.\nanswer    none\n" in shown


@pytest.mark.parametrize(
    "arguments",
    [
        ["solve", "  "],
        ["solve", "What?", "--policy", "Not one"],
        ["solve", "What?", "--policy", "threshold:threshold=0.5", "--threshold", "0.6"],
        ["solve", "What?", "--threshold", "2"],
        ["solve", "What?", "--lookahead", "far"],
        ["problems", "show", "42"],
        ["problems", "list", "-n", "0"],
        ["batches", "watch", "x"],
    ],
)
def test_wrong_usage_is_found_before_anything_is_sent(service: FakeService, arguments: list[str]) -> None:
    trim(*arguments, exit_code=2)
    assert service.requests == []


def interrupt(_: httpx2.Request) -> NoReturn:
    raise KeyboardInterrupt


@pytest.mark.parametrize("moment", ["while it is solved", "before the submission was answered"])
def test_ctrl_c_cancels_the_problem(service: FakeService, moment: str) -> None:
    if moment == "while it is solved":
        service.answers[f"GET /v1/problems/{PROBLEM_ID}/events"] = interrupt
    else:
        submit = service.answers["POST /v1/problems"]
        service.answers["POST /v1/problems"] = lambda request: (
            submit(request) if len(service.requests) > 1 else interrupt(request)
        )
    with pytest.raises(Interrupted, match=f"^Stopped; the problem {PROBLEM_ID} is cancelled. `trim problems show"):
        trim("solve", "What?")
    assert service.requests[-1].url.path.endswith("/cancel")
    keys = {each.headers["idempotency-key"] for each in service.requests if each.url.path == "/v1/problems"}
    assert len(keys) == 1


def test_ctrl_c_tells_if_the_problem_could_not_be_cancelled_or_had_ended(
    service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trim_client.connection.time.sleep", lambda _: None)
    service.answers[f"GET /v1/problems/{PROBLEM_ID}/events"] = interrupt
    path = f"POST /v1/problems/{PROBLEM_ID}/cancel"
    service.answers[path] = lambda _: answer(samples.problem("succeeded"))
    with pytest.raises(Interrupted, match=r"had ended \(succeeded\)"):
        trim("solve", "What?")
    service.answers[path] = lambda _: answer(samples.refusal(503, "problem_locked", "It is locked."), 503)
    with pytest.raises(Interrupted, match="could not be cancelled: It is locked"):
        trim("solve", "What?")


def test_problems_are_listed_shown_watched_and_cancelled(service: FakeService) -> None:
    heading, row = trim("problems", "list", "--status", "succeeded", "-n", "1").stdout.splitlines()
    assert heading.split()[:4] == ["problem", "status", "policy", "steps"]
    assert row.split()[:6] == [str(PROBLEM_ID), "succeeded", "threshold", "2", "1", "42"]
    assert dict(service.requests[-1].url.params) == {"status": "succeeded", "limit": "1"}
    assert json.loads(trim("problems", "list", "--json").stdout) == [samples.problem("succeeded")]

    shown = trim("problems", "show", str(PROBLEM_ID)).stdout
    assert shown.startswith("question  What is 6 times 7?\npolicy    threshold (threshold 0.5)\n\nstep author")
    assert "kept: its PRM score 0.9 is at least the threshold 0.5\n\nanswer    42\n" in shown
    record = json.loads(trim("problems", "show", str(PROBLEM_ID), "--json").stdout)
    assert (record["problem"]["answer"], len(record["steps"]), len(record["decisions"])) == ("42", 1, 1)

    assert trim("problems", "watch", str(PROBLEM_ID)).stdout == SOLVED
    cancelled = trim("problems", "cancel", str(PROBLEM_ID), str(PROBLEM_ID))
    assert (cancelled.stdout, service.requests[-1].method) == ("", "POST")


# Sentences


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_of_a_decision_has_a_sentence_with_the_numbers_compared(reason: str) -> None:
    assert set(BECAUSE) == set(REASONS)
    made = Decision.model_validate(samples.decision(reason=reason, value=0.25, compared_with=0.75))
    text = sentence(made)
    assert text.startswith("kept: ")
    assert "_" not in text
    assert "{" not in text


def test_a_reason_of_a_later_service_is_named_with_its_numbers() -> None:
    later = {"action": "defer", "reason": "mood_too_low", "value": 0.1, "compared_with": 1}
    made = Decision.model_validate(samples.decision() | later)
    assert sentence(made) == "defer: mood too low (0.1 against 1)"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "-"), (0.0, "0"), (1.0, "1"), (0.98212, "0.982"), (0.5, "0.5"), (0.99996, "0.99996"), (0.00004, "0.00004"),
     (1e-9, "1e-09"), (300.0, "300"), (-0.25, "-0.25"), (1234.5678, "1234.568")],
)  # fmt: skip
def test_a_figure_has_the_digits_that_keep_it_apart_from_0_and_1(value: float | None, shown: str) -> None:
    assert figure(value) == shown


# Errors


@pytest.mark.parametrize(
    ("error", "exit_code", "shown"),
    [
        (httpx2.ConnectError("refused"), 3, "No service answers at http://127.0.0.1:8080 (ConnectError); start one"),
        (
            answer("<html>", 200),
            1,
            "http://127.0.0.1:8080 does not answer as this service (status 200); check --server.",
        ),
        (answer(samples.refusal(401, "x", "No key."), 401), 1, "No key; set TRIM_API_KEY to a key that permits it."),
        (answer(samples.refusal(422, "x", "body.policy: Which?"), 422), 2, "policy: Which?"),
        (answer(samples.refusal(404, "not_found", "No such id."), 404), 1, "No such id."),
        (answer(samples.refusal(500, "internal", "It failed."), 500), 1, "It failed (request r-1)."),
        (answer("<html>", 502), 1, "Bad Gateway."),
    ],
)
def test_an_error_of_the_service_is_one_sentence_with_its_exit_code(  # noqa: PLR0917 - pytest passes by name
    service: FakeService,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: httpx2.Response | Exception,
    exit_code: int,
    shown: str,
) -> None:
    def fail(_: httpx2.Request) -> httpx2.Response:
        if isinstance(error, Exception):
            raise error
        return error

    monkeypatch.delenv("TRIM_SERVER", raising=False)
    monkeypatch.setattr("trim_client.connection.time.sleep", lambda _: None)
    monkeypatch.setattr("sys.argv", ["trim", "problems", "list"])
    service.answers["GET /v1/problems"] = fail
    with pytest.raises(SystemExit) as ended:
        main()
    printed = capsys.readouterr()
    assert (ended.value.code, printed.out) == (exit_code, "")
    assert printed.err.startswith(f"trim: {shown}")
    assert len(printed.err.splitlines()) == 1
