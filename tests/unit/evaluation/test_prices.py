"""Price tables: every kind of token counts, and a wrong table is refused in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evaluation.prices import BadPrices, Prices, read_prices
from shared.domain.ledger import Ledger

TABLE: dict[str, Any] = {
    "small": {"input": 1, "output": 10, "discarded": 20, "wasted": 30},
    "large": {"input": 100, "output": 1000, "wasted": 2000},
    "prm": {"input": 0.5},
}
LEDGER = Ledger(
    small_in=1, small_kept=2, small_discarded=3, small_wasted=4, small_estimated=99, large_in=5, large_out=6,
    large_wasted=7, large_estimated=99, prm_tokens=8, prm_estimated=99,
)  # fmt: skip


def write(folder: Path, content: str, name: str = "prices.json") -> Path:
    path = folder / name
    path.write_text(content)
    return path


def test_every_kind_of_token_has_its_price(tmp_path: Path) -> None:
    prices = read_prices(write(tmp_path, json.dumps(TABLE)))
    assert prices.cost(LEDGER) == 1 + 20 + 60 + 120 + 500 + 6000 + 14000 + 4


def test_discarded_and_wasted_tokens_cost_what_other_output_costs_unless_the_table_has_their_price() -> None:
    prices = Prices.model_validate(
        {"small": {"input": 1, "output": 10}, "large": {"input": 1, "output": 100}, "prm": {"input": 1}}
    )
    assert prices.cost(LEDGER) == 1 + 20 + 30 + 40 + 5 + 600 + 700 + 8


@pytest.mark.parametrize("name", ["prices.toml", "prices.TOML"])
def test_a_table_in_toml_is_read(tmp_path: Path, name: str) -> None:
    text = "[small]\ninput = 1e-7\noutput = 4e-7\n[large]\ninput = 3e-6\noutput = 1.5e-5\n[prm]\ninput = 0\n"
    assert read_prices(write(tmp_path, text, name)).large.output == 1.5e-5


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({**TABLE, "judge": {"input": 1}}, "judge"),
        ({**TABLE, "prm": {"input": 1, "output": 2}}, r"prm\.output"),
        ({**TABLE, "prm": {"input": -1}}, r"prm\.input"),
        ({**TABLE, "prm": {"input": 1e308}}, r"prm\.input.* from 0 to 1e\+09"),
        ({**TABLE, "prm": {"input": "1"}}, r"prm\.input"),
        ({**TABLE, "prm": {"input": float("nan")}}, r"prm\.input"),
        ({"small": TABLE["small"], "prm": TABLE["prm"]}, "large"),
        ([1], "the table"),
    ],
)
def test_a_wrong_price_is_refused_by_its_place(tmp_path: Path, content: object, complaint: str) -> None:
    with pytest.raises(BadPrices, match=complaint):
        read_prices(write(tmp_path, json.dumps(content)))


@pytest.mark.parametrize(("name", "content"), [("prices.json", "{"), ("prices.toml", "[small"), ("none.json", "")])
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, name: str, content: str) -> None:
    path = write(tmp_path, content, name) if content else tmp_path / name
    with pytest.raises(BadPrices, match=name):
        read_prices(path)
