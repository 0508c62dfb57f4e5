"""Stop strings: the text ends before the first one, in whatever pieces it comes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.api.openai.stopping import StopStrings


def cut(pieces: list[str], stops: list[str]) -> tuple[str, bool]:
    text = StopStrings(stops)
    shown = "".join(text.feed(piece) for piece in pieces) + text.finish()
    return shown, text.has_stopped


@pytest.mark.parametrize(
    ("pieces", "stops", "shown", "has_stopped"),
    [
        (["One.", "\n\nTwo."], [], "One.\n\nTwo.", False),
        (["One.", "\n\nTwo."], ["\n\n"], "One.", True),
        (["One.", "\n\nTwo.", "\n\nThree."], ["Two"], "One.\n\n", True),
        (["One.", "\n\nTwo."], [".\n\nT"], "One", True),
        (["One.", "\n\nTwo."], ["x", "w"], "One.\n\nT", True),
        (["One.\n", "no"], ["\n\n"], "One.\nno", False),
        (["One.\n"], ["\n\n"], "One.\n", False),
        (["aab"], ["ab"], "a", True),
        (["a", "a", "b"], ["ab"], "a", True),
        (["abc"], ["abcd", "c"], "ab", True),
        (["abcd"], ["abcd", "c"], "ab", True),
        (["Stop", "Stop"], ["Stop"], "", True),
    ],
)
def test_the_text_ends_before_the_first_stop_string(
    pieces: list[str], stops: list[str], shown: str, has_stopped: bool
) -> None:
    assert cut(pieces, stops) == (shown, has_stopped)


@given(
    pieces=st.lists(st.text(alphabet="ab\n", max_size=5), max_size=6),
    stops=st.lists(st.text(alphabet="ab\n", min_size=1, max_size=4), max_size=4),
)
def test_the_pieces_do_not_matter_and_no_stop_string_is_shown(pieces: list[str], stops: list[str]) -> None:
    whole = cut(["".join(pieces)], stops)
    assert cut(pieces, stops) == whole
    shown, has_stopped = whole
    assert not any(stop in shown for stop in stops)
    assert has_stopped == any(stop in "".join(pieces) for stop in stops)
    assert "".join(pieces).startswith(shown)


@given(pieces=st.lists(st.text(alphabet="ab", max_size=5), max_size=6))
def test_only_what_may_become_a_stop_string_is_held(pieces: list[str]) -> None:
    text, fed, shown = StopStrings(["aab"]), "", ""
    for piece in pieces:
        fed, shown = fed + piece, shown + text.feed(piece)
        if not text.has_stopped:
            assert fed.removeprefix(shown) in ("", "a", "aa")
