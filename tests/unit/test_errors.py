"""Errors as people read them: one sentence, with the cause where it adds something."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import TypeAdapter, ValidationError

from shared.errors import RetryableError, explain
from shared.policies.registry import BadParameters, build_policy
from shared.process import reporting_errors


def test_a_wrong_parameter_is_explained_without_a_count_of_validation_errors() -> None:
    with pytest.raises(BadParameters) as caught:
        build_policy("threshold", {"threshold": 7})
    assert explain(caught.value) == (
        "Policy 'threshold', parameter 'threshold': Input should be less than or equal to 1."
    )


def test_the_first_line_of_another_cause_is_part_of_the_explanation() -> None:
    with pytest.raises(RetryableError) as caught:
        raise RetryableError("No answer.") from OSError("refused\nby the host")
    assert explain(caught.value) == "No answer. (refused)"


def test_only_an_error_of_the_settings_is_reported_as_a_wrong_setting() -> None:
    with pytest.raises(ValidationError), reporting_errors("trim"):
        TypeAdapter(int).validate_python("many")


def test_an_error_keeps_its_sentence_if_the_interpreter_strips_docstrings() -> None:
    program = """
from services.api.errors import NotFound
from services.api.native.policies import policies
from shared.errors import PermanentError

print(NotFound())
print(next(each.description for each in policies() if each.name == "threshold"))
print(type("WithoutSource", (PermanentError,), {"__doc__": None})())
"""
    ended = subprocess.run(
        [sys.executable, "-OO", "-c", program],
        env={"PYTHONPATH": ":".join(sys.path)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.stdout.splitlines() == [
        "Nothing has this id.",
        "Escalate a draft whose PRM score is below a threshold, strictly (TRIM-Thr, section 4 of the TRIM paper).",
        "WithoutSource.",
    ], ended.stderr
