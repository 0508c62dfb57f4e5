"""The pages for operators: they can be found, and what they state about settings is so."""

from __future__ import annotations

import re
from pathlib import Path

from shared.domain.options import Options
from shared.settings import Settings

PAGES = Path(__file__).resolve().parents[2] / "docs" / "operations"
COSTS = (PAGES / "settings-costs.md").read_text()


def test_the_index_names_every_page() -> None:
    index = set(re.findall(r"\]\(([a-z/A-Z-]+\.md)", (PAGES / "README.md").read_text()))
    pages = {path.name for path in PAGES.glob("*.md")} - {"README.md"}
    assert pages | {"runbooks/README.md"} <= index


def test_every_setting_whose_cost_is_stated_has_the_stated_default() -> None:
    stated = dict(re.findall(r"^\| `TRIM_([A-Z_]+)` \| ([0-9.]+) \|", COSTS, re.MULTILINE))
    assert len(stated) > 8
    for name, default in stated.items():
        assert float(default) == Settings.model_fields[name.lower()].default, name


def test_every_option_whose_cost_is_stated_has_the_stated_default() -> None:
    stated = dict(re.findall(r"^\| `([a-z_]+)` \| (\d+) \|", COSTS, re.MULTILINE))
    assert stated == {
        "lookahead": str(Options().lookahead),
        "step_timeout_s": f"{Options().step_timeout_s:g}",
        "max_attempts": str(Options().max_attempts),
    }


def test_a_problem_whose_steps_time_out_fails_after_the_stated_time() -> None:
    waits = [Options().step_timeout_s * 2**attempt for attempt in range(Options().max_attempts)]
    [multiple] = re.findall(r"5 attempts take (\d+) times `step_timeout_s`", COSTS)
    assert sum(waits) == Options().step_timeout_s * int(multiple)
