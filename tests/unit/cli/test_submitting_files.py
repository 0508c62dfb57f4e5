"""`trim submit` and `trim batches` against a service that answers at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from typer.testing import CliRunner, Result

from cli import problem_lines, submit
from cli.app import app
from cli.problem_lines import BadLines, read_lines
from evaluation.problems import UnusableProblems
from tests.unit.cli.fake_service import FakeService, submitted
from tests.unit.client import samples
from tests.unit.client.samples import BATCH_ID
from tests.unit.client.service import answer
from trim_client import Conflict, InvalidRequest

Write = Callable[..., str]


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> FakeService:
    made = FakeService()
    made.install(monkeypatch)
    return made


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a file of problems; return its name."""
    monkeypatch.chdir(tmp_path)

    def written(*lines: object) -> str:
        texts = [each if isinstance(each, str) else json.dumps(each) for each in lines]
        Path("problems.jsonl").write_text("".join(f"{text}\n" for text in texts))
        return "problems.jsonl"

    return written


def trim(*arguments: str, exit_code: int = 0, **more: Any) -> Result:
    ended = CliRunner().invoke(app, arguments, catch_exceptions=False, **more)
    assert ended.exit_code == exit_code, ended.output
    return ended


def keys(service: FakeService) -> list[str]:
    return [each.headers["idempotency-key"] for each in service.requests if each.url.path == "/v1/batches"]


def problems(count: int) -> list[dict[str, Any]]:
    return [{"question": f"What is {number}?"} for number in range(count)]


def test_lines_are_read_as_the_api_takes_them_or_as_benchmarks_write_them() -> None:
    lines = [
        b'\xef\xbb\xbf{"question": "A?", "reference": 7, "policy": "small-only", "lookahead": 2}\r\n',
        b"\n",
        b'{"id": 3, "problem": "B?", "answer": "so 6 * 7\\n#### 42", "level": 5}\n',
    ]
    good, bad = read_lines(lines, ignored=["level"])
    assert bad == []
    assert [(each.line, each.problem) for each in good] == [
        (1, {"question": "A?", "reference": 7, "policy": "small-only", "lookahead": 2}),
        (3, {"question": "B?", "reference": "42"}),
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "It is not JSON."),
        ("[]", "It is not a JSON object."),
        ('{"reference": "7"}', "It has no question (`question` or `problem`)."),
        ('{"question": " "}', "It has no question (`question` or `problem`)."),
        (
            '{"question": "A?", "polcy": "x"}',
            "It has a field 'polcy' that problems do not have; did you mean `policy`?",
        ),
        ('{"question": "A?", "problem": "B?"}', "It has its question twice, once as 'problem'."),
        ('{"question": "A?", "answer": []}', "It has no answer (`reference` or `answer`, text or a number)."),
    ],
)
def test_a_bad_line_is_named_by_its_number_and_nothing_is_submitted(
    service: FakeService, write: Write, line: str, reason: str
) -> None:
    file = write({"question": "Good?"}, line)
    with pytest.raises(BadLines) as bad:
        trim("submit", file)
    assert str(bad.value).startswith(f"problems.jsonl: Line 2: {reason} Nothing more was submitted;")
    assert service.requests == []
    assert trim("submit", file, "--skip-bad-lines").stdout == f"{BATCH_ID}\n"
    assert service.bodies("POST /v1/batches")[0]["problems"] == [{"question": "Good?"}]


def test_a_file_becomes_batches_of_at_most_the_maximum(
    service: FakeService, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit, "BATCH_PROBLEMS", 2)
    file = write(*problems(5))
    assert trim("submit", file, "--policy", "pomdp@3", "--temperature", "0").stdout == f"{BATCH_ID}\n" * 3
    bodies = service.bodies("POST /v1/batches")
    assert [len(each["problems"]) for each in bodies] == [2, 2, 1]
    assert bodies[0]["defaults"] == {
        "policy": {"name": "pomdp", "parameters": {}, "version": 3}, "sampling": {"temperature": 0},
    }  # fmt: skip
    monkeypatch.setattr(problem_lines, "CHUNK_BYTES", 60)
    trim("submit", file)
    assert [len(each["problems"]) for each in service.bodies("POST /v1/batches")[3:]] == [2, 2, 1]


def test_the_same_command_has_the_same_keys_and_every_other_one_has_others(
    service: FakeService, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit, "BATCH_PROBLEMS", 2)
    # The same two problems twice: four problems are meant.
    file = write(*problems(2), *problems(2))
    for more in ([], [], ["--threshold", "0.4"], ["--run", "second"]):
        trim("submit", file, *more)
    first, again, *others = [keys(service)[index : index + 2] for index in range(0, 8, 2)]
    assert first == again
    assert len({*first, *others[0], *others[1]}) == 6
    service.answers["POST /v1/batches"] = lambda request: answer(submitted(request).json(), 200)
    assert all(each["was_submitted_before"] for each in json.loads(trim("submit", file, "--json").stdout))


def test_what_was_submitted_before_a_failure_is_named(
    service: FakeService, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit, "BATCH_PROBLEMS", 1)
    conflict = answer(samples.refusal(409, "idempotency_conflict"), 409)
    service.answers["POST /v1/batches"] = lambda request: submitted(request) if len(keys(service)) < 3 else conflict
    ended = CliRunner().invoke(app, ["submit", write(*problems(4))])
    assert isinstance(ended.exception, Conflict)
    assert ended.stdout == f"{BATCH_ID}\n" * 2


def test_json_has_the_line_of_each_problem(service: FakeService, write: Write) -> None:
    [batch] = json.loads(trim("submit", write({"question": "A?"}, "", {"question": "B?"}), "--json").stdout)
    assert batch["batch_id"] == str(BATCH_ID)
    assert [each["line"] for each in batch["problems"]] == [1, 3]


def test_standard_input_is_a_file(service: FakeService) -> None:
    assert trim("submit", "-", input='{"question": "A?"}\n').stdout == f"{BATCH_ID}\n"


def test_a_batch_that_the_service_refuses_as_too_large_is_divided(service: FakeService, write: Write) -> None:
    def take_two(request: httpx2.Request) -> httpx2.Response:
        count = len(json.loads(request.content)["problems"])
        return submitted(request) if count <= 2 else answer(samples.refusal(422, "batch_too_large"), 422)

    service.answers["POST /v1/batches"] = take_two
    [*batches] = json.loads(trim("submit", write(*problems(5)), "--json").stdout)
    assert [[each["line"] for each in batch["problems"]] for batch in batches] == [[1, 2], [3], [4, 5]]


def refusing(service: FakeService, bad: str) -> None:
    """Have the service refuse the problem with a question, as it does: by its place in the batch."""

    def refuse(request: httpx2.Request) -> httpx2.Response:
        questions = [each["question"] for each in json.loads(request.content)["problems"]]
        if bad not in questions:
            return submitted(request)
        wrong = [{"field": f"body.problems.{questions.index(bad)}.policy", "message": "There is no policy 'x'."}]
        return answer(samples.refusal(422, "invalid_request", errors=wrong), 422)

    service.answers["POST /v1/batches"] = refuse


def test_a_line_that_the_service_refuses_is_named_by_its_number(service: FakeService, write: Write) -> None:
    refusing(service, "What is 2?")
    file = write("", *problems(4))
    with pytest.raises(BadLines, match=r"^problems\.jsonl: Line 4: policy: There is no policy 'x'\."):
        trim("submit", file)
    [batch] = json.loads(trim("submit", file, "--skip-bad-lines", "--json").stdout)
    assert [each["line"] for each in batch["problems"]] == [2, 3, 5]


def test_a_refusal_of_the_options_is_no_line_s_fault(service: FakeService, write: Write) -> None:
    wrong = [{"field": "body.defaults.policy", "message": "There is no policy 'x'."}]
    service.answers["POST /v1/batches"] = lambda _: answer(samples.refusal(422, "unknown_policy", errors=wrong), 422)
    with pytest.raises(InvalidRequest):
        trim("submit", write(*problems(2)), "--skip-bad-lines")


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_a_file_without_problems_and_one_that_is_missing_are_named(
    service: FakeService, write: Write, content: str
) -> None:
    with pytest.raises(UnusableProblems, match=r"problems\.jsonl has no problem"):
        trim("submit", write(content))
    with pytest.raises(UnusableProblems, match=r"missing\.jsonl cannot be read \(No such file or directory\)"):
        trim("submit", "missing.jsonl")


def test_waiting_shows_the_sums_and_fails_if_a_problem_did(
    service: FakeService, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trim_client.connection.time.sleep", lambda _: None)
    looks = iter([samples.batch(0), samples.batch(1), samples.batch(2)])
    service.answers[f"GET /v1/batches/{BATCH_ID}"] = lambda _: answer(next(looks))
    file = write(*problems(2))
    heading, row = trim("submit", file, "--wait").stdout.splitlines()
    assert heading.split()[:5] == ["batch", "problems", "ended", "succeeded", "correct"]
    assert row.split()[:4] == [str(BATCH_ID), "2", "2", "2"]
    failed = samples.batch(2, statuses={"succeeded": 1, "failed": 1})
    service.answers[f"GET /v1/batches/{BATCH_ID}"] = lambda _: answer(failed)
    trim("submit", file, "--wait", exit_code=1)
    trim("batches", "watch", str(BATCH_ID), exit_code=1)


def test_batches_are_listed_shown_watched_and_cancelled(service: FakeService) -> None:
    assert trim("batches", "list", "-n", "3").stdout.splitlines()[1].split()[:3] == [str(BATCH_ID), "ended", "2"]
    assert service.requests[-1].url.params["limit"] == "3"
    assert json.loads(trim("batches", "list", "--json").stdout)[0]["id"] == str(BATCH_ID)
    failures = [{"code": "no_output", "count": 1, "detail": "Nothing came."}]
    service.answers[f"GET /v1/batches/{BATCH_ID}"] = lambda _: answer(samples.batch(2) | {"failures": failures})
    shown = trim("batches", "show", str(BATCH_ID)).stdout
    assert "  succeeded" in shown
    assert "1: Nothing came." in shown
    assert json.loads(trim("batches", "watch", str(BATCH_ID), "--json").stdout)["failures"] == failures
    trim("batches", "cancel", str(BATCH_ID))
    assert service.requests[-1].url.path.endswith("/cancel")
