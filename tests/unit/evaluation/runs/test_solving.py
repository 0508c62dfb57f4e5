"""A run through the service: killed at any call, it continues, submits nothing twice and finds the same results."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from evaluation.problems import ProblemFile, read_problems
from evaluation.runs.candidates import Candidate
from evaluation.runs.folder import FolderInUse, NoRun, OtherRun, RunFolder
from evaluation.runs.plan import BATCH_PROBLEMS, BadOptions, Plan, PolicyTwice, planned_batches
from evaluation.runs.rows import TrialRow
from evaluation.runs.solving import Solving
from evaluation.runs.versions import check_versions
from shared.domain.roles import WorkerRole
from stack.client import ApiRefused, NoVersion, Unreachable
from tests.unit.evaluation.runs.fake_service import FakeService, Killed, outage

POLICIES = ("threshold:threshold=0.5", "pomdp")
OPTIONS = {"sampling": {"temperature": 0.7}, "lookahead": 2}


@pytest.fixture
def problems(tmp_path: Path) -> ProblemFile:
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps({"question": f"What is {n}", "answer": "7", "id": n}) + "\n" for n in range(6)))
    return read_problems(path)


def plan_of(problems: ProblemFile, *, seeds: int = 2, policies: tuple[str, ...] = POLICIES) -> Plan:
    return Plan.of(problems, name="problems.jsonl", seeds=seeds, policies=policies, options=OPTIONS)


def solve(service: FakeService, path: Path, problems: ProblemFile, plan: Plan | None = None) -> list[TrialRow]:
    folder = RunFolder(path)
    with folder.locked():
        plan = plan or plan_of(problems)
        return Solving(service, folder, plan, problems.problems, pause=lambda _: None).run()  # type: ignore[arg-type]


def test_every_policy_solves_the_same_problems_with_the_same_seeds(tmp_path: Path, problems: ProblemFile) -> None:
    service = FakeService()
    rows = solve(service, tmp_path / "run", problems)
    by_policy: dict[str, list[tuple[str, int]]] = {}
    for row in rows:
        by_policy.setdefault(row.policy, []).append((row.id, row.seed))
    assert list(by_policy) == ["small-only", "large-only", *POLICIES]
    expected = [(str(problem), seed) for problem in range(6) for seed in range(2)]
    assert all(each == expected for each in by_policy.values())
    assert RunFolder(tmp_path / "run").results(plan_of(problems)) == rows
    assert service.bodies[0] == {**OPTIONS, "policy": {"name": "small-only", "parameters": {}}}


def test_a_row_has_result_cost_decisions_and_the_time_of_each_role_once(tmp_path: Path, problems: ProblemFile) -> None:
    rows = solve(FakeService(), tmp_path / "run", problems)
    [row] = [each for each in rows if (each.policy, each.id, each.seed) == ("threshold:threshold=0.5", "1", 1)]
    trial = row.trial
    assert (trial.is_solved, trial.large_tokens, trial.latency_s) == (True, 10, 2.5)
    assert [(each.step, each.escalates, each.score) for each in trial.decisions] == [(0, True, 0.2)] * 2
    # Two drafts; one call of the PRM for both; one large step.
    assert {role: each.worked_s for role, each in trial.spent.items()} == {
        WorkerRole.SMALL: 0.4,
        WorkerRole.PRM: 0.2,
        WorkerRole.LARGE: 0.2,
    }
    assert row.models == {WorkerRole.SMALL: "small", WorkerRole.PRM: "prm", WorkerRole.LARGE: "large"}


def test_a_run_that_is_killed_at_any_call_continues_and_submits_nothing_twice(
    tmp_path: Path, problems: ProblemFile
) -> None:
    undisturbed, plan = FakeService(), plan_of(problems, seeds=1)
    rows = solve(undisturbed, tmp_path / "whole", problems, plan)
    expected = [row.model_dump(exclude={"problem_id"}) for row in rows]
    assert undisturbed.calls > 30
    for call in range(1, undisturbed.calls + 1):
        service = FakeService()
        service.fail_at = {call: Killed()}
        path = tmp_path / f"killed-{call}"
        with pytest.raises(Killed):
            solve(service, path, problems, plan)
        rows = solve(service, path, problems, plan)
        assert [row.model_dump(exclude={"problem_id"}) for row in rows] == expected
        assert len(service.batches) == len(undisturbed.batches)


def test_results_are_fetched_once(tmp_path: Path, problems: ProblemFile) -> None:
    service = FakeService()
    solve(service, tmp_path / "run", problems)
    calls = service.calls
    solve(service, tmp_path / "run", problems)
    assert service.calls == calls


def test_a_service_that_is_away_for_a_while_delays_the_run(tmp_path: Path, problems: ProblemFile) -> None:
    service = FakeService()
    service.fail_at = outage(*range(1, 20), *range(30, 35))
    assert len(solve(service, tmp_path / "run", problems)) == 48


def test_a_service_that_stays_away_ends_the_run(tmp_path: Path, problems: ProblemFile) -> None:
    service = FakeService()
    service.fail_at = outage(*range(1, 1000))
    with pytest.raises(Unreachable):
        solve(service, tmp_path / "run", problems)


def test_a_refusal_is_not_repeated(tmp_path: Path, problems: ProblemFile) -> None:
    service = FakeService()
    service.fail_at = {1: ApiRefused("No.", reason="invalid_request")}
    with pytest.raises(ApiRefused):
        solve(service, tmp_path / "run", problems)
    assert service.calls == 1
    # Nothing was submitted, so the folder can be used with other settings.
    assert len(solve(service, tmp_path / "run", problems, plan_of(problems, seeds=1))) == 24


@pytest.mark.parametrize("options", [{"lookahead": 65}, {"lookahead": "ahead"}, {"sampling": {"temperature": -1}}])
def test_an_option_that_the_service_would_refuse_is_refused_at_once(
    problems: ProblemFile, options: dict[str, object]
) -> None:
    with pytest.raises(BadOptions, match=next(iter(options))):
        Plan.of(problems, name="", seeds=1, policies=(), options=options)


def test_a_run_may_take_the_first_problems_of_a_file(problems: ProblemFile) -> None:
    plan = Plan.of(problems, name="", seeds=1, policies=(), options={}, first=2)
    assert plan.trials == 4
    assert [[each.problem.id for each in batch.trials] for batch in planned_batches(plan, problems.problems)] == [
        ["0", "1"],
        ["0", "1"],
    ]


def test_all_batches_of_a_run_have_the_version_of_the_first(
    tmp_path: Path, problems: ProblemFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Changing(FakeService):
        def batch(self, batch_id: str) -> dict[str, object]:
            self.default_version = 9
            return super().batch(batch_id)

    monkeypatch.setattr("evaluation.runs.solving.OPEN_PROBLEMS", 16)
    service = Changing()
    service.max_batch_size = 4
    rows = solve(service, tmp_path / "run", problems)
    assert Counter(row.version for row in rows) == {None: 36, 1: 12}


def test_a_service_that_takes_smaller_batches_gets_them_also_after_an_interruption(
    tmp_path: Path, problems: ProblemFile
) -> None:
    service = FakeService()
    service.max_batch_size = 4
    service.fail_at = {3: Killed()}  # Batches of 12 and 6 were refused, and one of 3 was submitted.
    with pytest.raises(Killed):
        solve(service, tmp_path / "run", problems)
    rows = solve(service, tmp_path / "run", problems)
    assert [len(each) for each in service.batches] == [3] * 16
    expected = solve(FakeService(), tmp_path / "other", problems)
    assert [row.model_dump(exclude={"problem_id"}) for row in rows] == [
        row.model_dump(exclude={"problem_id"}) for row in expected
    ]


def test_a_service_that_takes_no_batch_at_all_ends_the_run(tmp_path: Path, problems: ProblemFile) -> None:
    service = FakeService()
    service.max_batch_size = 0
    with pytest.raises(ApiRefused, match="Too many"):
        solve(service, tmp_path / "run", problems)


def test_a_policy_of_other_models_ends_the_run_each_time(tmp_path: Path, problems: ProblemFile) -> None:
    service = FakeService()
    failure = {"code": "policy_models_differ", "detail": "The policy pomdp@1 was fitted on the prm model a."}
    service.endings["pomdp"] = {"status": "failed", "failure": failure, "answer": None, "verdict": None}
    for _ in range(2):
        with pytest.raises(NoVersion, match="All problems of pomdp failed: The policy pomdp@1 was fitted on"):
            solve(service, tmp_path / "run", problems)


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"seeds": 3}, "seeds"),
        ({"policies": ("threshold:threshold=0.6",)}, "policies"),
        ({"options": {}}, "options"),
        ({"digest": "0"}, "digest"),
    ],
)
def test_a_second_start_with_other_settings_is_refused(
    tmp_path: Path, problems: ProblemFile, other: dict[str, object], named: str
) -> None:
    solve(FakeService(), tmp_path / "run", problems)
    plan = plan_of(problems).model_copy(update=other)
    with pytest.raises(OtherRun, match=named):
        RunFolder(tmp_path / "run").begin(plan)


def test_a_folder_with_other_files_is_refused(tmp_path: Path, problems: ProblemFile) -> None:
    with pytest.raises(OtherRun, match="other files"):
        solve(FakeService(), tmp_path, problems)


def test_a_start_that_was_killed_while_it_wrote_the_manifest_is_repeated(tmp_path: Path, problems: ProblemFile) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "manifest.json.part").write_text('{"form')
    assert len(solve(FakeService(), tmp_path / "run", problems)) == 4 * 12
    assert not (tmp_path / "run" / "manifest.json.part").exists()


def test_a_folder_is_used_by_one_run_at_a_time(tmp_path: Path, problems: ProblemFile) -> None:
    with RunFolder(tmp_path / "run").locked(), pytest.raises(FolderInUse):
        solve(FakeService(), tmp_path / "run", problems)


def test_a_folder_that_is_a_file_is_refused(problems: ProblemFile, tmp_path: Path) -> None:
    with pytest.raises(OtherRun, match="cannot hold a run"):
        solve(FakeService(), tmp_path / "problems.jsonl", problems)


def test_a_folder_without_results_is_refused(tmp_path: Path, problems: ProblemFile) -> None:
    with pytest.raises(NoRun):
        RunFolder(tmp_path).manifest()
    with pytest.raises(NoRun, match="holds no results"):
        RunFolder(tmp_path).results(plan_of(problems))


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: -len(path.read_bytes().splitlines(keepends=True)[-1])])


def swap(path: Path) -> None:
    path.write_bytes(b"".join(reversed(path.read_bytes().splitlines(keepends=True))))


def rename_key(path: Path) -> None:
    path.write_text(path.read_text().replace('"large_out"', '"large"'))


def drop_time(path: Path) -> None:
    path.write_text(path.read_text().replace('"worked_s":{"small":0.4,', '"worked_s":{'))


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [shorten, swap, rename_key, drop_time, make_folder])
def test_damaged_results_are_refused_and_repeated_from_what_is_left(
    tmp_path: Path, problems: ProblemFile, damage: Callable[[Path], None]
) -> None:
    plan, path = plan_of(problems), tmp_path / "run"
    rows = solve(FakeService(), path, problems)
    damage(path / "results.jsonl")
    with pytest.raises(NoRun, match=r"results.jsonl is damaged; remove it"):
        RunFolder(path).results(plan)
    service = FakeService()
    solve(service, tmp_path / "other", problems)
    damage(tmp_path / "other" / "batches" / "00002.jsonl")
    with pytest.raises(NoRun, match=r"00002.jsonl is damaged; remove it"):
        solve(service, tmp_path / "other", problems)
    if damage is not make_folder:
        (path / "results.jsonl").unlink()
        assert solve(FakeService(), path, problems) == rows


@pytest.mark.parametrize(
    "change", [{"problems": 0}, {"seeds": 0}, {"policies": ["pomdp"]}, {"policies": ["large-only", "small-only"]}]
)
def test_a_damaged_manifest_is_refused(tmp_path: Path, problems: ProblemFile, change: dict[str, object]) -> None:
    solve(FakeService(), tmp_path / "run", problems)
    path = tmp_path / "run" / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "plan": {**manifest["plan"], **change}}))
    with pytest.raises(NoRun, match="can be read"):
        RunFolder(tmp_path / "run").manifest()


@pytest.mark.parametrize(
    ("name", "content"), [("lock", "mine"), ("thesis.tex", "mine"), ("manifest.json", '{"name": "app"}')]
)
def test_a_folder_that_is_refused_stays_as_it_is(
    tmp_path: Path, problems: ProblemFile, name: str, content: str
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_text(content)
    with pytest.raises((OtherRun, NoRun), match="name a"):
        solve(FakeService(), tmp_path / "mine", problems)
    assert {each.name: each.read_text() for each in (tmp_path / "mine").iterdir()} == {name: content}


@pytest.mark.parametrize(
    "policies",
    [
        ("pomdp", " pomdp"),
        ("threshold:threshold=0.5", "threshold:threshold=0.50"),
        ("threshold:threshold=1,budget=9", "threshold:budget=9,threshold=1.0"),
        ("threshold", "threshold:threshold=0.5"),
        ("small-only:epsilon=0",),
    ],
)
def test_a_policy_that_is_named_twice_in_any_form_is_refused(problems: ProblemFile, policies: tuple[str, ...]) -> None:
    with pytest.raises(PolicyTwice, match="name it once"):
        plan_of(problems, policies=policies)


def test_versions_and_wrappers_make_different_policies(problems: ProblemFile) -> None:
    policies = ("pomdp", "pomdp@1", "pomdp@2", "pomdp:budget=9", "small-only:epsilon=0.5")
    assert plan_of(problems, policies=policies).policies[2:] == policies


def test_baselines_that_are_named_are_not_added_again(problems: ProblemFile) -> None:
    assert plan_of(problems, policies=("large-only", "pomdp")).policies == ("small-only", "large-only", "pomdp")


def test_batches_are_bounded_and_all_policies_solve_a_group_before_the_next(problems: ProblemFile) -> None:
    plan = plan_of(problems, seeds=BATCH_PROBLEMS // 4)
    batches = planned_batches(plan, problems.problems)
    assert [len(each.trials) for each in batches] == [100, 100, 100, 100, 50, 50, 50, 50]
    assert [each.candidate.label for each in batches[:4]] == list(plan.policies)


def test_long_questions_make_smaller_batches(problems: ProblemFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluation.runs.plan.BATCH_CHARS", 50)
    assert {len(each.trials) for each in planned_batches(plan_of(problems), problems.problems)} == {2}


@pytest.mark.parametrize("label", ["pomdp@2", "pomdp@7", "sequence", "random"])
def test_a_policy_or_version_that_the_service_lacks_is_refused_before_anything_is_submitted(label: str) -> None:
    with pytest.raises(NoVersion, match=label.partition("@")[0]):
        check_versions(FakeService(), [Candidate.parse(label)])  # type: ignore[arg-type]


def test_versions_that_the_service_has_are_accepted() -> None:
    candidates = [Candidate.parse(label) for label in ("pomdp", "pomdp@1", "threshold")]
    check_versions(FakeService(), candidates)  # type: ignore[arg-type]


def test_a_version_of_models_that_do_not_run_is_refused_before_anything_is_submitted() -> None:
    service = FakeService()
    with pytest.raises(NoVersion, match="pomdp@3 was fitted on the prm model other, but the service runs prm;"):
        check_versions(service, [Candidate.parse("pomdp@3")])  # type: ignore[arg-type]
    service.prm = "other"
    check_versions(service, [Candidate.parse("pomdp@3")])  # type: ignore[arg-type]
    with pytest.raises(NoVersion, match="pomdp was fitted on the prm model prm, but the service runs other;"):
        check_versions(service, [Candidate.parse("pomdp")])  # type: ignore[arg-type]
