"""Trains a learned policy by proximal policy optimisation (Schulman et al. 2017), as the TRIM paper does (section 4).

A right answer earns 1, and each token of the large model costs `large_token_price`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from evaluation.problems import UnusableProblems
from shared.errors import PermanentError
from training.environment import Branches
from training.episodes import Choose, Episode, Figures, drawn, play, preferred
from training.networks import NETWORKS, Inputs, Network, Weights, check_like, trainable
from training.state_files import save_state
from training.trained import Trained

RATE = 3e-4
"""Learning rate at the start; falls linearly to 0."""

WEIGHT_DECAY = 1e-5
PROBLEMS = 64
"""Number of problems in a batch."""

EPOCHS = 3
"""Number of gradient steps on each batch."""

SMOOTHING = 0.95
"""Lambda of the generalised advantage estimate; rewards are not discounted."""

CLIP = 0.2
"""Change of a value, or of the ratio of an action's probabilities, beyond which a batch gains nothing."""

VALUE_WEIGHT = 0.5
ENTROPY_WEIGHTS = (0.01, 0.001)
"""At the start and at the end; linear between."""

MAX_NORM = 0.5
"""Norm to which gradients are clipped."""

VALIDATIONS = 20
"""Number of times that a training is measured on validation problems and its state saved."""


class TrainingRefused(PermanentError):
    """The training cannot be resumed; use the settings that it began with, or delete its state file."""

    code = "training_refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What distinguishes one training from another on the same problems."""

    seed: int = 0
    batches: int = 1000
    large_token_price: float = 8e-4
    """Price of a token of the large model; a right answer is worth 1. Lambda in the paper."""

    def record(self) -> dict[str, Any]:
        """Return all settings of the training, those that never change included, for the card of the artefact."""
        return asdict(self) | {
            "rate": RATE,
            "weight_decay": WEIGHT_DECAY,
            "problems_per_batch": PROBLEMS,
            "epochs_per_batch": EPOCHS,
            "smoothing": SMOOTHING,
            "clip": CLIP,
            "value_weight": VALUE_WEIGHT,
            "entropy_weights": list(ENTROPY_WEIGHTS),
            "max_norm": MAX_NORM,
            "validations": VALIDATIONS,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a training is."""

    batch: int
    """Number of batches done."""
    batches: int
    training: Figures
    """On the problems of the last batch, with drawn actions."""
    validation: Figures
    """On validation problems, with the preferred actions."""
    best: Figures
    """The best so far on validation problems."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The weights that earned most on validation problems."""

    weights: Weights
    figures: Figures


@dataclass(frozen=True, slots=True)
class Batch:
    """The decisions of some episodes; all tensors but the inputs have one number each."""

    inputs: Inputs
    actions: Tensor
    log_probabilities: Tensor
    values: Tensor
    advantages: Tensor
    """Normalised over the batch."""
    returns: Tensor

    @classmethod
    def of(cls, network: Network, episodes: Sequence[Episode]) -> Self:
        """Collect the decisions of episodes."""
        steps = [step for episode in episodes for step in episode.steps]
        values = torch.tensor([step.value for step in steps])
        advantages = torch.tensor([each for episode in episodes for each in episode.advantages(SMOOTHING)])
        return cls(
            inputs=network.encode([step.observation for step in steps]),
            actions=torch.tensor([int(step.escalates) for step in steps]),
            log_probabilities=torch.tensor([step.log_probability for step in steps]),
            values=values,
            advantages=(advantages - advantages.mean()) / (advantages.std(correction=0) + 1e-8),
            returns=advantages + values,
        )

    def loss(self, logits: Tensor, values: Tensor, *, entropy_weight: float) -> Tensor:
        """Compute the loss of a network's outputs: policy, value and entropy."""
        logs = logits.log_softmax(-1)
        ratios = (logs.gather(1, self.actions[:, None])[:, 0] - self.log_probabilities).exp()
        gains = torch.minimum(ratios * self.advantages, ratios.clamp(1 - CLIP, 1 + CLIP) * self.advantages)
        near = self.values + (values - self.values).clamp(-CLIP, CLIP)
        errors = torch.maximum((values - self.returns) ** 2, (near - self.returns) ** 2)
        entropy = -(logs.exp() * logs).sum(-1)
        return VALUE_WEIGHT * 0.5 * errors.mean() - gains.mean() - entropy_weight * entropy.mean()


class Training:
    """A training of one policy; resumes from its state file."""

    def __init__(
        self,
        policy: str,
        *,
        problems: Branches[Any],
        validation: Branches[Any],
        measured: Branches[Any],
        settings: Settings,
        data: Mapping[str, Any],
        path: Path,
    ) -> None:
        """Begin a training, or resume it.

        Args:
            policy: Name of the policy.
            problems: Problems to train on.
            validation: Problems on which the best weights are chosen.
            measured: Other problems, which measure the result.
            settings: Settings.
            data: Where the problems come from, for the card of the artefact.
            path: State file.

        Raises:
            UnusableProblems: A part has no problem.
            TrainingRefused: The state file is damaged, or of a training with other settings or problems.
        """
        self.batch = 0
        """Number of batches done."""
        self._network = NETWORKS[policy]
        self._problems, self._validation, self._measured = problems, validation, measured
        self._settings, self._path = settings, path
        counts = {
            "problems": problems.count,
            "validation_problems": validation.count,
            "measured_problems": measured.count,
        }
        if not all(counts.values()):
            raise UnusableProblems(
                "A training needs at least one problem to train on, one that chooses the best weights, and one that"
                " measures the result; add problems."
            )
        self._data = {**data, **counts}
        self._weights = self._network.fresh(settings.seed)
        trained = [weight.requires_grad_() for weight in trainable(self._weights)]
        self._optimizer = torch.optim.Adam(trained, lr=RATE, weight_decay=WEIGHT_DECAY, fused=True)
        self._best: Best | None = None
        if path.exists():
            self._load()

    def run(self, report: Callable[[Progress], None] = lambda _: None) -> Trained:
        """Train to the end.

        Args:
            report: Called after each validation, once the state is saved.
        """
        batches = self._settings.batches
        every = max(1, batches // VALIDATIONS)
        if self.batch == 0:
            self._scale()
        while self.batch < batches:
            training = self._train()
            if self.batch % every == 0 or self.batch == batches:
                validation, best = self._validate()
                self._save()
                report(Progress(batch=self.batch, batches=batches, training=training, validation=validation, best=best))
        assert self._best is not None, "the last batch is followed by a validation"
        validated, measured = (
            self._play(self._best.weights, part, range(part.count), choose=preferred)
            for part in (self._validation, self._measured)
        )
        return Trained(
            policy=self._network.policy,
            weights=self._best.weights,
            settings=self._settings.record(),
            data=self._data,
            figures=Figures.of(measured),
            observations=[step.observation for episode in validated for step in episode.steps],
        )

    def _scale(self) -> None:
        """Scale the inputs to those of the first batch."""
        seen = [step.observation for episode in self._play_next() for step in episode.steps]
        if seen:
            self._weights = self._network.scaled(self._weights, seen)

    def _play_next(self) -> list[Episode]:
        """Play the next batch with drawn actions."""
        # Drawn from the number of the batch, so that a resumed training draws what an uninterrupted one does.
        generator = torch.Generator().manual_seed(self._settings.seed * 1_000_003 + self.batch)
        return self._play(self._weights, self._problems, self._next_problems(), choose=drawn(generator))

    def _train(self) -> Figures:
        """Train on the next batch."""
        episodes, done = self._play_next(), self.batch / self._settings.batches
        for group in self._optimizer.param_groups:
            group["lr"] = RATE * (1 - done)
        first, last = ENTROPY_WEIGHTS
        batch = Batch.of(self._network, episodes)
        for _ in range(EPOCHS):
            self._optimizer.zero_grad()
            outputs = self._network(self._weights, batch.inputs)
            batch.loss(*outputs, entropy_weight=first + (last - first) * done).backward()
            torch.nn.utils.clip_grad_norm_(trainable(self._weights), MAX_NORM)
            self._optimizer.step()
        self.batch += 1
        return Figures.of(episodes)

    def _next_problems(self) -> list[int]:
        """Choose the problems of the next batch: each once before any comes a second time, in a new order each time."""
        count = self._problems.count
        places = range(self.batch * PROBLEMS, (self.batch + 1) * PROBLEMS)
        rounds = {place // count for place in places}
        orders = {each: np.random.default_rng([self._settings.seed, each]).permutation(count) for each in rounds}
        return [int(orders[place // count][place % count]) for place in places]

    def _validate(self) -> tuple[Figures, Figures]:
        """Measure the weights, and keep them if they are the best so far; return their figures and the best."""
        episodes = self._play(self._weights, self._validation, range(self._validation.count), choose=preferred)
        figures, price = Figures.of(episodes), self._settings.large_token_price
        if self._best is None or figures.reward(price) > self._best.figures.reward(price):
            weights = {name: weight.detach().clone() for name, weight in self._weights.items()}
            self._best = Best(weights=weights, figures=figures)
        return figures, self._best.figures

    def _play(
        self, weights: Weights, branches: Branches[Any], problems: Sequence[int], *, choose: Choose
    ) -> list[Episode]:
        price = self._settings.large_token_price
        return play(self._network, weights, branches, problems, choose=choose, large_token_price=price)

    def _save(self) -> None:
        """Write the state file.

        Raises:
            CannotWrite: It cannot be written; the old one stays intact.
        """
        assert self._best is not None, "the state is saved after a validation"
        state = {
            "policy": self._network.policy.name,
            "settings": self._settings.record(),
            "data": self._data,
            "batch": self.batch,
            "weights": {name: weight.detach() for name, weight in self._weights.items()},
            "optimizer": self._optimizer.state_dict(),
            "best_weights": self._best.weights,
            "best_figures": asdict(self._best.figures),
        }
        save_state(self._path, state)

    def _load(self) -> None:
        try:
            saved = torch.load(self._path)
            self._refuse_other(saved)
            self._restore(saved)
        except TrainingRefused:
            raise
        except Exception as error:  # noqa: BLE001 - a damaged file: torch and pickle raise many types
            raise TrainingRefused(
                f"The state file {self._path} is damaged or cannot be read ({type(error).__name__}); delete it to begin"
                " again."
            ) from None

    def _restore(self, saved: Mapping[str, Any]) -> None:
        """Take over a saved state.

        Raises:
            Exception: It is damaged.
        """
        batch, best, figures = saved["batch"], saved["best_weights"], Figures(**saved["best_figures"])
        if type(batch) is not int or not 0 <= batch <= self._settings.batches:
            raise ValueError(f"a training of {self._settings.batches} batches cannot have done {batch!r}")
        check_like(saved["weights"], self._weights)
        check_like(best, self._weights)
        if not all(math.isfinite(each) for each in asdict(figures).values()):
            raise ValueError("the best figures are not finite")
        with torch.no_grad():
            for name, weight in self._weights.items():
                weight.copy_(saved["weights"][name])
        self._optimizer.load_state_dict(saved["optimizer"])
        for weight in trainable(self._weights):
            moments = self._optimizer.state[weight]
            for name in ("exp_avg", "exp_avg_sq"):
                check_like({name: moments[name]}, {name: weight})
        self._best = Best(weights=best, figures=figures)
        self.batch = batch

    def _refuse_other(self, saved: Mapping[str, Any]) -> None:
        mine = _flat({"policy": self._network.policy.name, **self._settings.record(), **self._data})
        theirs = _flat({"policy": saved["policy"], **saved["settings"], **saved["data"]})
        for name in mine | theirs:
            if mine.get(name) != theirs.get(name):
                raise TrainingRefused(
                    f"The training in {self._path} began with {name} {theirs.get(name)!r}, not {mine.get(name)!r};"
                    " resume it with the same settings, or delete the file."
                )


def _flat(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Name the parts of fields by their paths, such as `models.prm`."""
    flat: dict[str, Any] = {}
    for name, each in fields.items():
        flat |= {f"{name}.{part}": each[part] for part in each} if isinstance(each, Mapping) else {name: each}
    return flat
