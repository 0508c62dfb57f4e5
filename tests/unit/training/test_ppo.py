"""Training: the loss by hand, a world in which the right decisions are known, interruption and resumption."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="training needs the extra `train`")

from evaluation.problems import UnusableProblems  # noqa: E402 - only where torch is
from shared.domain.artefacts import ModelIds  # noqa: E402
from shared.domain.decisions import Action, Observation  # noqa: E402
from shared.policies.artefact import Artefact  # noqa: E402
from training import ppo  # noqa: E402
from training.environment import Branches, Outcome, Turn  # noqa: E402
from training.episodes import Episode, Figures, Step, play, preferred  # noqa: E402
from training.networks import NETWORKS  # noqa: E402
from training.ppo import Batch, Progress, Settings, Training, TrainingRefused  # noqa: E402
from training.trained import Trained  # noqa: E402

STEPS, TOKENS = 3, 40
MODELS = ModelIds(small="s@1", large="l@1", prm="p@1")
DATA = {"source": "a world of the tests"}

Path_ = tuple[int, tuple[bool, ...]]
"""Number of a problem, and for each decided step whether it was escalated."""


class World(Branches[Path_]):
    """A draft whose score is below 0.5 is wrong with certainty, any other is right, and so are all large steps."""

    def __init__(self, count: int, *, seed: int) -> None:
        super().__init__(count)
        draw = Random(seed)
        self.scores = [
            [draw.uniform(0.0, 0.4) if draw.random() < 0.3 else draw.uniform(0.6, 1.0) for _ in range(STEPS)]
            for _ in range(count)
        ]

    def _start(self, problem: int) -> Outcome[Path_]:
        return Outcome(large_tokens=0, turn=self._turn(problem, ()))

    def _take(self, place: Path_, action: Action) -> Outcome[Path_]:
        problem, path = place
        path = (*path, action is Action.ESCALATE)
        spent = TOKENS * path[-1]
        if len(path) < STEPS:
            return Outcome(large_tokens=spent, turn=self._turn(problem, path))
        steps = zip(path, self.scores[problem], strict=True)
        return Outcome(large_tokens=spent, turn=None, is_solved=all(wrote or score >= 0.5 for wrote, score in steps))

    def _turn(self, problem: int, path: tuple[bool, ...]) -> Turn[Path_]:
        scores, step = self.scores[problem], len(path)
        seen = Observation(
            step=step,
            score=scores[step],
            previous_scores=tuple(0.9 if wrote else score for wrote, score in zip(path, scores, strict=False)),
            previous_tokens=(20,) * step,
            draft_tokens=20,
        )
        return Turn(seen, (problem, path))

    @property
    def best(self) -> Figures:
        """Escalating exactly the wrong drafts."""
        wrong = sum(score < 0.5 for scores in self.scores for score in scores)
        return Figures(accuracy=1.0, large_tokens=TOKENS * wrong / self.count, escalated=wrong / self.count / STEPS)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Networks this small are slower with more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def training(
    path: Path,
    *,
    policy: str = "aggregate",
    problems: int = 128,
    validation: int = 100,
    measured: World | None = None,
    data: Mapping[str, Any] = DATA,
    **settings: Any,
) -> Training:
    return Training(
        policy,
        problems=World(problems, seed=1),
        validation=World(validation, seed=2),
        measured=measured or World(100, seed=3),
        settings=Settings(**{"batches": 8, **settings}),
        data=data,
        path=path / "state.pt",
    )


def made_from(trained: Trained) -> Artefact:
    return trained.artefact(models=MODELS, created_at=datetime(2026, 1, 2, tzinfo=UTC), command="test")


# --- episodes and the loss --------------------------------------------------------------------------------------------


def episode(*steps: tuple[float, float]) -> Episode:
    """Make an episode of the values and rewards of its steps."""
    seen = Observation(step=0, score=0.5)
    taken = [Step(seen, escalates=True, log_probability=-1.0, value=v, reward=r) for v, r in steps]
    return Episode(Outcome(large_tokens=0, turn=None), 0, taken)


def test_advantages_sum_up_later_surprises_ever_less() -> None:
    found = episode((0.5, -0.1), (0.25, 0.0), (0.5, 1.0)).advantages(0.95)
    surprises = [-0.1 + 0.25 - 0.5, 0.5 - 0.25, 1.0 - 0.5]
    assert found == pytest.approx(
        [
            surprises[0] + 0.95 * surprises[1] + 0.95**2 * surprises[2],
            surprises[1] + 0.95 * surprises[2],
            surprises[2],
        ]
    )


def test_the_loss_is_clipped_on_the_side_that_would_gain() -> None:
    batch = Batch(
        inputs=(),
        actions=torch.tensor([1, 1]),
        log_probabilities=torch.tensor([0.25, 0.25]).log(),
        values=torch.tensor([0.0, 0.0]),
        advantages=torch.tensor([1.0, -1.0]),
        returns=torch.tensor([1.0, 0.0]),
    )
    logits, values = torch.zeros(2, 2), torch.tensor([0.5, 0.1])
    # The ratio is 2: a gain counts up to 1.2, a loss in full. The first value moved by 0.5, of which 0.2 count.
    gains, errors = (1.2 - 2.0) / 2, ((0.2 - 1.0) ** 2 + 0.1**2) / 2
    entropy = torch.tensor(2.0).log().item()
    expected = 0.5 * 0.5 * errors - gains - 0.01 * entropy
    assert batch.loss(logits, values, entropy_weight=0.01).item() == pytest.approx(expected)


def test_advantages_are_normalised_over_the_batch_and_returns_are_not() -> None:
    network = NETWORKS["aggregate"]
    batch = Batch.of(network, [episode((0.5, 1.0)), episode((0.5, 0.0), (0.25, 0.0))])
    assert (batch.advantages.mean().item(), batch.advantages.std(correction=0).item()) == pytest.approx(
        (0, 1), abs=1e-6
    )
    assert batch.returns.tolist() == pytest.approx([1.0, 0.25 - 0.95 * 0.25, 0.0])


def test_rewards_are_the_answer_less_the_price_of_large_tokens() -> None:
    world, network = World(20, seed=3), NETWORKS["aggregate"]
    found = play(
        network,
        network.fresh(0),
        world,
        range(20),
        choose=lambda p: torch.ones_like(p, dtype=torch.bool),
        large_token_price=0.001,
    )
    assert [[step.reward for step in each.steps] for each in found] == [[-0.04, -0.04, 0.96]] * 20
    assert Figures.of(found) == Figures(accuracy=1.0, large_tokens=120.0, escalated=1.0)
    assert Figures.of(found).reward(0.001) == pytest.approx(0.88)


def test_a_problem_that_ends_without_a_decision_is_an_episode_without_steps() -> None:
    class Decided(World):
        def _start(self, problem: int) -> Outcome[Path_]:
            return Outcome(large_tokens=7, turn=None, is_solved=True)

    network = NETWORKS["aggregate"]
    found = play(network, network.fresh(0), Decided(2, seed=1), [0, 1], choose=preferred, large_token_price=0.001)
    assert Figures.of(found) == Figures(accuracy=1.0, large_tokens=7.0, escalated=0.0)


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("policy", "batches"), [("aggregate", 60), ("sequence", 60)])
def test_training_learns_to_escalate_exactly_the_wrong_drafts(policy: str, batches: int, tmp_path: Path) -> None:
    seen: list[Progress] = []
    trained = training(tmp_path, policy=policy, problems=256, batches=batches, large_token_price=0.004).run(seen.append)
    best = World(100, seed=2).best
    assert trained.figures.reward(0.004) > World(100, seed=3).best.reward(0.004) - 0.02
    assert [each.batch for each in seen] == list(range(batches // 20, batches + 1, batches // 20))

    made = made_from(trained)
    assert made.card.policy == policy
    assert made.card.settings["large_token_price"] == 0.004
    assert made.card.data == DATA | {"problems": 256, "validation_problems": 100, "measured_problems": 100}
    decide = trained.policy(escalate_share=best.escalated).fitted(made).decide
    decided = [(each, decide(each).action is Action.ESCALATE) for each in trained.observations]
    right = sum(escalates == (each.score is not None and each.score < 0.5) for each, escalates in decided)
    assert right / len(decided) > 0.98


def test_a_resumed_training_ends_with_the_weights_of_an_uninterrupted_one(tmp_path: Path) -> None:
    class Interrupted(Exception):
        pass

    def interrupt(progress: Progress) -> None:
        if progress.batch == 5:
            raise Interrupted

    whole = training(tmp_path / "whole").run()
    with pytest.raises(Interrupted):
        training(tmp_path / "parts").run(interrupt)
    rest = training(tmp_path / "parts")
    assert rest.batch == 5
    resumed = rest.run()
    assert all(torch.equal(weight, resumed.weights[name]) for name, weight in whole.weights.items())
    assert made_from(whole).digest == made_from(resumed).digest
    again: list[Progress] = []
    assert made_from(training(tmp_path / "parts").run(again.append)).digest == made_from(whole).digest
    assert again == [], "a training that is over does nothing"


def test_the_result_is_measured_on_other_problems_than_those_that_chose_the_weights(tmp_path: Path) -> None:
    class Unsolved(World):
        def _start(self, problem: int) -> Outcome[Path_]:
            return Outcome(large_tokens=7, turn=None, is_solved=False)

    seen: list[Progress] = []
    trained = training(tmp_path, measured=Unsolved(2, seed=3), batches=1).run(seen.append)
    assert trained.figures == Figures(accuracy=0.0, large_tokens=7.0, escalated=0.0)
    assert seen[-1].best.accuracy > 0
    assert len(trained.observations) == 100 * STEPS, "the cuts of shares come from validation problems"


@pytest.mark.parametrize("empty", [{"problems": 0}, {"validation": 0}, {"measured": World(0, seed=3)}])
def test_a_training_with_an_empty_part_is_refused_before_it_begins(empty: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UnusableProblems, match="needs at least one problem"):
        training(tmp_path, **empty)


def test_another_seed_gives_other_weights(tmp_path: Path) -> None:
    one, other = (made_from(training(tmp_path / f"{seed}", seed=seed).run()) for seed in (0, 1))
    assert one.card.arrays_sha256 != other.card.arrays_sha256


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"large_token_price": 0.001}, "large_token_price 0.0008, not 0.001"),
        ({"batches": 9}, "batches 8, not 9"),
        ({"seed": 1}, "seed 0, not 1"),
        ({"problems": 64}, "problems 128, not 64"),
        ({"policy": "sequence"}, "policy 'aggregate', not 'sequence'"),
    ],
)
def test_a_training_with_other_settings_is_not_resumed(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    training(tmp_path).run()
    before = (tmp_path / "state.pt").read_bytes()
    with pytest.raises(TrainingRefused, match=said):
        training(tmp_path, **change)
    assert (tmp_path / "state.pt").read_bytes() == before


def test_a_training_on_other_models_is_not_resumed_and_the_model_is_named(tmp_path: Path) -> None:
    training(tmp_path, data={"models": {"small": "s@1", "prm": "p@1"}}, batches=1).run()
    with pytest.raises(TrainingRefused, match=r"began with models\.prm 'p@1', not 'p@2'; resume"):
        training(tmp_path, data={"models": {"small": "s@1", "prm": "p@2"}}, batches=1)


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the state file of a training that is over."""
    folder = tmp_path_factory.mktemp("trained")
    training(folder).run()
    return folder / "state.pt"


@pytest.mark.parametrize("length", [0, 4, 5000, -1])
def test_a_truncated_state_file_is_refused(length: int, state: Path, tmp_path: Path) -> None:
    (tmp_path / "state.pt").write_bytes(state.read_bytes()[:length])
    with pytest.raises(TrainingRefused, match=r"state\.pt is damaged or cannot be read \(\w+\); delete it"):
        training(tmp_path)


def test_a_folder_with_the_name_of_a_state_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state.pt").mkdir()
    with pytest.raises(TrainingRefused, match="IsADirectoryError"):
        training(tmp_path)


NOT_A_NUMBER = {name: torch.full_like(each, torch.nan) for name, each in NETWORKS["aggregate"].fresh(0).items()}


@pytest.mark.parametrize(
    "change",
    [
        {"batch": "x"},
        {"batch": -3},
        {"batch": 99},
        {"batch": True},
        {"weights": {}},
        {"weights": NOT_A_NUMBER},
        {"best_weights": {}},
        {"best_weights": NOT_A_NUMBER},
        {"best_weights": {name: each.flatten()[:1] for name, each in NETWORKS["aggregate"].fresh(0).items()}},
        {"best_weights": {name: each.double() for name, each in NETWORKS["aggregate"].fresh(0).items()}},
        {"best_weights": dict.fromkeys(NOT_A_NUMBER, "x")},
        {"best_figures": {"accuracy": float("nan"), "large_tokens": 1.0, "escalated": 0.5}},
        {"best_figures": {"accuracy": "x", "large_tokens": 1.0, "escalated": 0.5}},
        {"optimizer": {"state": {}, "param_groups": []}},
        {"optimizer": None},
    ],
)
def test_a_state_that_no_training_can_have_is_refused(change: dict[str, Any], state: Path, tmp_path: Path) -> None:
    torch.save(torch.load(state) | change, tmp_path / "state.pt")
    with pytest.raises(TrainingRefused, match="damaged"):
        training(tmp_path)


def test_a_state_without_the_moments_of_its_gradients_is_refused(state: Path, tmp_path: Path) -> None:
    saved = torch.load(state)
    saved["optimizer"]["state"] = {}
    torch.save(saved, tmp_path / "state.pt")
    with pytest.raises(TrainingRefused, match="damaged"):
        training(tmp_path)


def test_a_state_file_without_weights_is_refused(tmp_path: Path) -> None:
    made = training(tmp_path)
    torch.save({"policy": "aggregate", "settings": made._settings.record(), "data": made._data}, tmp_path / "state.pt")
    with pytest.raises(TrainingRefused, match="damaged"):
        training(tmp_path)


def test_a_batch_holds_each_problem_once_before_any_comes_again(tmp_path: Path) -> None:
    made = training(tmp_path, problems=100)
    drawn: list[int] = []
    for batch in range(25):
        made.batch = batch
        drawn += made._next_problems()
    rounds = [drawn[start : start + 100] for start in range(0, 1600, 100)]
    assert all(sorted(each) == list(range(100)) for each in rounds)
    assert len({tuple(each) for each in rounds}) == 16


def test_the_card_has_every_constant_of_the_training() -> None:
    record = Settings().record()
    constants = {name.lower() for name in vars(ppo) if name.isupper()} - {"quantiles", "networks"}
    assert {name.replace("_per_batch", "") for name in record} >= constants
    assert replace(Settings(), seed=3).record()["seed"] == 3
