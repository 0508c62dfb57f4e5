"""A policy is trained on engines; a resumed training, or another policy after it, computes no step twice."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="training needs the extra `train`")

from shared.policies.artefact import Artefact  # noqa: E402 - only where torch is
from shared.policies.registry import POLICIES  # noqa: E402
from tests.unit.training.arithmetic_engines import Engines, one_error, problems  # noqa: E402
from training import ppo  # noqa: E402
from training.learning import train  # noqa: E402

CARD = {"created_at": datetime(2026, 1, 2, tzinfo=UTC), "command": "test"}


class Interrupt(Exception):
    pass


def run(engines: Engines, folder: Path, policy: str = "aggregate", *, stops_at: int = 99, batches: int = 4) -> Artefact:
    def report(progress: ppo.Progress) -> None:
        if progress.batch == stops_at:
            raise Interrupt

    parts = problems(12).split_for_training(validation_share=0.25, measuring_share=0.25)
    with engines.loaded(folder / "memory.sqlite3") as loaded:
        return train(
            policy, *parts, loaded, settings=ppo.Settings(batches=batches, large_token_price=1e-3),
            state=folder / f"{policy}.state.pt", card=CARD, report=report,
        )  # fmt: skip


def test_an_interrupted_training_ends_as_an_uninterrupted_one_does(tmp_path: Path) -> None:
    whole = run(Engines(small=one_error), tmp_path / "whole")
    with pytest.raises(Interrupt):
        run(Engines(small=one_error), tmp_path / "parts", stops_at=2)
    resumed = run(Engines(small=one_error), tmp_path / "parts")
    assert resumed.digest == whole.digest
    assert torch.get_num_threads() == 1
    assert POLICIES["aggregate"]().fitted(resumed).models == resumed.models  # type: ignore[attr-defined]
    counts = [resumed.card.data[f"{part}problems"] for part in ("", "validation_", "measured_")]
    assert counts == [6, 3, 3]
    assert resumed.card.data["models"]["prm"] == "prm@1"


def test_another_policy_on_the_same_problems_computes_hardly_anything(tmp_path: Path) -> None:
    first, second = Engines(small=one_error), Engines(small=one_error)
    run(first, tmp_path, "sequence", batches=12)
    run(second, tmp_path, "aggregate", batches=12)
    assert second.calls < 0.2 * first.calls


def test_other_problems_or_settings_are_refused(tmp_path: Path) -> None:
    run(Engines(small=one_error), tmp_path)
    with pytest.raises(ppo.TrainingRefused, match="began with batches 4, not 5"):
        run(Engines(small=one_error), tmp_path, batches=5)
