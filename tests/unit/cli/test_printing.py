"""How commands write estimates and progress."""

from __future__ import annotations

import functools
import io
import re

import pytest
from rich.console import Console

from cli import output, progress
from cli.estimates import lacks_interval, number, p_value, percent, seconds
from cli.output import print_table


def test_estimates_have_their_interval_where_there_is_one() -> None:
    assert percent({"value": 0.5, "low": 0.25, "high": 0.75}) == "50.0% (25.0 to 75.0)"
    assert percent({"value": 0.5, "low": None, "high": None}) == "50.0%"
    assert number({"value": -1.5, "low": -2.0, "high": 0.0}) == "-1.50 (-2.00 to 0.00)"
    assert number({"value": 1234.5, "low": None, "high": None}, "{:.4g}") == "1234"


def test_an_estimate_lacks_its_interval_only_if_it_has_a_value() -> None:
    cases = [(0.5, None), (0.5, 0.25), (None, None)]
    assert [lacks_interval({"value": value, "low": low, "high": low}) for value, low in cases] == [True, False, False]


def test_what_is_undefined_is_a_dash_and_a_tiny_p_value_is_below_the_smallest() -> None:
    assert percent({"value": None, "low": None, "high": None}) == "-"
    assert (p_value(0.0004), p_value(0.0312)) == ("<0.001", "0.031")
    assert (seconds(None), seconds(1.234)) == ("-", "1.23 s")


def test_progress_in_a_file_is_a_line_now_and_then_with_rate_and_remaining_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [100.0]
    written = io.StringIO()
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(progress, "console", Console(file=written))
    with progress.showing_progress() as show:
        move = show("solutions")
        for clock[0], done in ((100.0, 40), (105.0, 45), (120.0, 60), (121.0, 61), (140.0, 100)):
            move(done, 100)
    # What had ended before this start is no part of the rate.
    assert written.getvalue().splitlines() == [
        "solutions: 60 of 100, 1.0/s, 0:00:40 left",
        "solutions: 100 of 100, 1.5/s, 0:00:00 left",
    ]


def test_a_command_of_many_short_parts_shows_progress_in_a_file_too(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    written = io.StringIO()
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(progress, "console", Console(file=written))
    with progress.showing_progress() as show:
        for part in range(4):
            move = show(f"measuring [{part}]")
            for done in (5, 10):
                clock[0] += 4
                move(done, 10)
        move = show("decisions computed")
        move(1000, 0)
        clock[0] += 16
        move(1032, 0)
    assert written.getvalue().splitlines() == [
        "measuring [1]: 10 of 10, 1.2/s, 0:00:00 left",
        "measuring [3]: 10 of 10, 1.2/s, 0:00:00 left",
        "decisions computed: 1032, 2.0/s",
    ]


def test_a_note_is_printed_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=written))
    progress.note("data[1].jsonl, line 2: its id is '[/b]'")
    assert written.getvalue() == "data[1].jsonl, line 2: its id is '[/b]'\n"


def test_progress_on_a_terminal_is_a_bar_for_each_part(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=written, force_terminal=True, width=100))
    with progress.showing_progress() as show:
        show("[b]solving")(100, 100)
        show("decisions computed")(7, 0)
    for shown in ("[b]solving", "100/100", "decisions computed", "7/?"):
        assert shown in written.getvalue()


def test_a_table_leaves_out_columns_that_a_narrow_terminal_has_no_room_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [("0193ad2e", "12", "a \x1b[31mlong\x9b answer", "42")]
    for width, shown in (("60", ["id", "steps", "answer", "verdict"]), ("45", ["id", "answer", "verdict"])):
        monkeypatch.setenv("COLUMNS", width)
        monkeypatch.setattr(output, "Console", functools.partial(Console, force_terminal=True, no_color=True))
        print_table(("id", "steps", "answer", "verdict"), rows, less=("steps", "verdict"))
        heading, row = re.sub(r"\x1b\[\d*m", "", capsys.readouterr().out).splitlines()
        assert heading.split() == shown
        assert "\\x1b[31mlong\\x9b answer" in row
    monkeypatch.undo()
    print_table(("id", "steps", "answer", "verdict"), rows, less=("steps", "verdict"))
    assert capsys.readouterr().out.split()[:4] == ["id", "steps", "answer", "verdict"]
