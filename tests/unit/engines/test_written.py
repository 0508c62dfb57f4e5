"""The memory of how a model wrote its steps."""

from __future__ import annotations

from shared.engines.written import Written


def test_the_least_recently_used_forms_are_forgotten() -> None:
    written: Written[str] = Written(6)
    written.remember("a", "aaa")
    written.remember("b", "bbb")
    assert written.recall("a") == "aaa"
    written.remember("c", "c")
    assert written.recall("b") is None
    written.remember("a", "a")
    written.remember("d", "dddd")
    assert [written.recall(each) for each in "acd"] == ["a", "c", "dddd"]
    written.remember("e", "longer")
    assert [written.recall(each) for each in "acde"] == [None, None, None, "longer"]


def test_a_form_that_is_longer_than_all_may_be_is_not_kept() -> None:
    written: Written[str] = Written(2)
    written.remember("a", "aaa")
    assert written.recall("a") is None
    written.remember("b", "bb")
    assert written.recall("b") == "bb"
    written.clear()
    assert written.recall("b") is None
