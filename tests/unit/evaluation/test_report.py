from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from evaluation.report.drawing import COLOURS, MARKERS, draw, looks
from evaluation.report.effort import escalation_rates
from evaluation.report.measures import Measures
from evaluation.report.writing import write_report
from evaluation.study import Decided, Judged, Setting, Spent, Study, Trial
from evaluation.true_cost import Computed
from shared.domain.ledger import Ledger
from shared.domain.roles import WorkerRole
from stack.whole_files import CannotWrite

TIMES = {role: Spent(waited_s=0.1, worked_s=0.5) for role in WorkerRole}


def setting(policy: str, solved: str, large: int, *, label: str = "", timed: bool = False) -> Setting:
    ledger = Ledger(small_kept=20, small_in=10, prm_tokens=30, large_out=large, large_in=large)
    decisions = tuple(Decided(step=step, escalates=step == 1, score=0.5) for step in range(3))
    trials = [
        Trial(
            is_solved=mark == "+",
            large_tokens=large,
            ledger=ledger,
            decisions=decisions,
            latency_s=1.5 if timed else None,
            spent=TIMES if timed else {},
        )
        for mark in solved
    ]
    return Setting(policy=policy, label=label or policy, trials=trials)


def study(*settings: Setting, judged: Sequence[Judged] = (), large: int = 100, title: str = "A study") -> Study:
    return Study(
        title=title,
        problems=20,
        seeds=2,
        small=setting("small-only", "++--" * 10, 0),
        large=setting("large-only", "++++" * 10, large),
        settings=settings,
        prices=Computed(small=1, prm=2, large=10),
        judged=judged,
    )


JUDGED = [Judged(score=place / 40, is_right=place > 15, problem=place // 4) for place in range(41)]

FULL = study(
    setting("threshold", "++-+" * 10, 20, label="threshold 0.3"),
    setting("threshold", "++++" * 10, 40, label="threshold 0.6", timed=True),
    setting("cascade", "++-+" * 10, 60),
    setting("$odd_{<i>", "++-+" * 10, 30, timed=True),
    judged=JUDGED,
    title="Problems <b>with</b> answers",
)
BARE = study(setting("random", "+++-" * 10, 50), large=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "new"
    assert write_report({"main": FULL, "lite": BARE}, folder, title="A & B") == folder / "report.html"
    return folder


class Tags(HTMLParser):
    """Collects what a page refers to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.names: Counter[str] = Counter()
        self.images: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names[tag] += 1
        found = dict(attrs)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.links += [value or "" for name, value in attrs if name in {"href", "xlink:href", "src"}]
        if found.get("role") == "img":
            self.images.append(found.get("aria-label") or "")


def test_the_page_needs_no_other_file_and_no_script(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    tags = Tags(page)
    assert {"script", "link", "img", "iframe", "object"} & set(tags.names) == set()
    assert all(link.startswith("#") and link[1:] in tags.ids for link in tags.links)
    assert set(re.findall(r"url\((?!#)", page)) == set()
    assert all(place in tags.ids for place in re.findall(r"url\(#([^)]+)\)", page))
    assert [name for name, count in Counter(tags.ids).items() if count > 1] == []


def test_the_page_shows_every_picture_with_words_for_those_who_cannot_see_it(folder: Path) -> None:
    tags = Tags((folder / "report.html").read_text())
    assert len(tags.images) == len(list(folder.glob("*.svg"))) == len(list(folder.glob("*.png"))) == 10
    assert (
        "threshold recovers 95 % of the gap at 40.0%. cascade recovers 95 % of the gap at no setting." in tags.images[0]
    )
    assert all(len(each) > 60 for each in tags.images)


def test_titles_and_labels_are_text_whatever_they_hold(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    assert "A &amp; B" in page
    assert "Problems &lt;b&gt;with&lt;/b&gt; answers" in page
    assert "$odd_{&lt;i&gt;" in page
    assert "<b>" not in page
    assert "<i>" not in page


def test_the_summary_is_first_and_shows_each_policy_at_one_setting(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    summary = page[page.index("<table>") : page.index("</table>")]
    assert page.index("<h1>") < page.index("<table>") < page.index("<svg")
    assert re.search(r">threshold</th><td class=\"text\">0.6</td><td>100.0 % ", summary)
    assert re.search(r">random</th>.*?<td>–</td>", summary)
    assert "0.3" not in re.findall(r'class="text">([^<]*)<', summary)


def test_what_a_study_lacks_is_a_sentence(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    for sentence in (
        "The study has no steps with known labels.",
        "The study has no times, as those of a simulation.",
        "Large-only spent no tokens, so shares are undefined.",
    ):
        assert sentence in page


def test_pictures_in_a_page_have_only_its_colours_so_that_a_dark_page_can_change_them(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    drawn = page[page.index("<svg") :]
    assert re.findall(r"#[0-9a-f]{6}\b", drawn) == []
    defined = set(re.findall(r"(--[a-z0-9-]+):", page))
    assert set(re.findall(r"var\((--[a-z0-9-]+)\)", page)) <= defined


def test_picture_files_are_drawn_on_white_and_complete(folder: Path) -> None:
    for path in folder.glob("*.svg"):
        assert ET.fromstring(path.read_text()).tag.endswith("svg")
        assert "#ffffff" in path.read_text()
        assert "math" not in path.read_text()  # a number in TeX's notation, which is shown as it is written
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in folder.glob("*.png"))


def test_the_same_picture_has_the_same_bytes() -> None:
    first, second = (
        draw(
            "line",
            lambda figure: figure.subplots().fill_between([0, 1], [0, 1], hatch="//"),
            caption="A line.",
            alt="A line.",
            height=1,
        )
        for _ in range(2)
    )
    assert (first.svg, first.png) == (second.svg, second.png)


@pytest.mark.parametrize("names", [(), ("Main",), ("a/b",)])
def test_studies_have_names_that_file_names_can_begin_with(names: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a report has studies with names"):
        write_report(dict.fromkeys(names, BARE), tmp_path, title="A report")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "report").touch()
    with pytest.raises(CannotWrite, match="free space, or name another folder"):
        write_report({"lite": BARE}, tmp_path / "report", title="A report")


def test_a_policy_is_shown_at_its_cheapest_setting_that_recovers_the_gap() -> None:
    shown = Measures(
        study(
            setting("a", "++++" * 10, 60, label="a dear"),
            setting("a", "++++" * 10, 30, label="a cheap"),
            setting("a", "++-+" * 10, 10, label="a poor"),
            setting("b", "++--" * 10, 10, label="b poor"),
            setting("b", "++-+" * 10, 50, label="b dear"),
            setting("b", "++-+" * 10, 40, label="b better"),
        )
    ).shown
    assert {policy: each.setting.label for policy, each in shown.items()} == {"a": "a cheap", "b": "b better"}


def test_a_policy_is_shown_at_its_most_accurate_setting_where_no_gap_is_defined() -> None:
    settings = (setting("a", "+---" * 10, 10, label="a poor"), setting("a", "+++-" * 10, 20, label="a good"))
    flat = Study(
        title="No gap",
        problems=20,
        seeds=2,
        small=setting("small-only", "++--" * 10, 0),
        large=setting("large-only", "++--" * 10, 100),
        settings=settings,
        prices=Computed(small=0, prm=0, large=0),
    )
    measures = Measures(flat)
    assert measures.shown["a"].setting.label == "a good"
    assert (measures.shown["a"].cost.value, measures.shown["a"].recovered.value) == (None, None)


def test_steps_of_unknown_problems_count_as_separate_problems() -> None:
    judged = [Judged(score=0.5, is_right=True, problem=problem) for problem in (3, 3, None, None)]
    labelled = Measures(study(judged=judged)).labelled
    assert labelled is not None
    assert labelled.problems[0] == labelled.problems[1]
    assert len(set(labelled.problems.tolist())) == 3


def test_the_rate_of_escalations_leaves_out_steps_with_few_decisions() -> None:
    decided = [Decided(step=0, escalates=index < 10, score=None) for index in range(40)]
    trial = Trial(
        is_solved=True,
        large_tokens=0,
        ledger=Ledger(),
        decisions=[*decided, Decided(step=1, escalates=True, score=0.1)],
    )
    assert escalation_rates([trial]) == {0: 0.25}


def test_many_policies_look_different() -> None:
    found = looks([str(number) for number in range(len(COLOURS) * len(MARKERS))])
    assert len(set(found.values())) == len(found)
