"""A problem: a story told in its question, and the one solution that follows from it.

`parse` is the exact inverse of `Story.question`. It rejects every other text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from recipe.problems import arithmetic
from recipe.problems.families import FACTORS, NAMES, PARTS, PLACES, THINGS, TRAINED, TRANSFER, Event, Family, Kind

Fields = Mapping[str, str]

_NUMBER = r"[1-9]\d?"
_FIELD = re.compile(r"\{(\w+)\}")
_PATTERNS = {
    "name": "|".join(NAMES),
    "other": "|".join(NAMES),
    "place": "|".join(PLACES),
    "things": "|".join(THINGS),
    "factor": "|".join(FACTORS),
    "part": "|".join(PARTS),
}


class NotAProblem(ValueError):
    """The generator cannot have written the question."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """A problem of a family, with all values that were drawn for it."""

    family: Family
    opening: Fields
    events: tuple[tuple[Event, Fields], ...]

    @property
    def question(self) -> str:
        """Text of the problem."""
        told = [self.family.opening.format(**self.opening)]
        told += [f"{number}) {event.sentence.format(**fields)}" for number, (event, fields) in self._numbered()]
        return " ".join([*told, self.family.question.format(**({**self.opening, "name": self._holders()[-1]}))])

    @property
    def template(self) -> str:
        """The problem without its values: two problems with the same template differ only in the values."""
        sentences = [event.sentence for event, _ in self.events]
        return " ".join([self.family.opening, *sentences, self.family.question])

    @property
    def answer(self) -> int:
        """The number at the end."""
        return self._values()[-1]

    @property
    def steps(self) -> tuple[str, ...]:
        r"""The solution: one or two steps per event, then the answer in `\boxed{}`."""
        written: list[str] = []
        unit = self.family.unit.format(**self.opening)
        for number, ((event, fields), value) in enumerate(zip(self.events, self._values(), strict=False), 1):
            written += [f"{number}) {text} {unit}." for text in _told(event.kind, value, fields)]
        return (*written, rf"The answer is \boxed{{{self.answer}}}.")

    def _numbered(self) -> Iterator[tuple[int, tuple[Event, Fields]]]:
        return enumerate(self.events, 1)

    def _values(self) -> list[int]:
        values = [int(self.opening["value"])]
        for event, fields in self.events:
            values.append(after(event.kind, values[-1], fields))
        return values

    def _holders(self) -> list[str]:
        holders = [self.opening.get("name", "")]
        for _, fields in self.events:
            holders.append(fields.get("other", holders[-1]))
        return holders


def after(kind: Kind, value: int, fields: Fields) -> int:
    """Compute the number after an event."""
    if kind in (Kind.ADD, Kind.ADD_PRODUCT):
        return value + _moved(fields)
    if kind in (Kind.SUBTRACT, Kind.SUBTRACT_PRODUCT):
        return value - _moved(fields)
    if kind is Kind.TIMES:
        return value * FACTORS[fields["factor"]]
    part = value // PARTS[fields["part"]]
    return part if kind is Kind.PART else value - part


def _moved(fields: Fields) -> int:
    """Compute the amount that an event adds or subtracts."""
    return int(fields["amount"]) if "amount" in fields else int(fields["count"]) * int(fields["each"])


def _told(kind: Kind, value: int, fields: Fields) -> tuple[str, ...]:
    """Write the one or two sentences of an event, without the unit."""
    first: tuple[str, ...] = ()
    if "count" in fields:
        first = (f"That is {fields['count']}*{fields['each']}={_moved(fields)}",)
    match kind:
        case Kind.ADD | Kind.ADD_PRODUCT:
            return *first, f"That makes {arithmetic.add(value, _moved(fields))}"
        case Kind.SUBTRACT | Kind.SUBTRACT_PRODUCT:
            return *first, f"That leaves {arithmetic.subtract(value, _moved(fields))}"
        case Kind.TIMES:
            return (f"That makes {arithmetic.multiply(value, FACTORS[fields['factor']])}",)
        case Kind.PART:
            return (f"That leaves {arithmetic.divide(value, PARTS[fields['part']])}",)
        case Kind.LESS_PART:
            divisor = PARTS[fields["part"]]
            part = f"{fields['part'].capitalize()} is {arithmetic.divide(value, divisor)}"
            return part, f"That leaves {arithmetic.subtract(value, value // divisor)}"


def problems_of(stories: Sequence[Story]) -> list[tuple[str, str]]:
    """Return the question and the reference of each story."""
    return [(story.question, str(story.answer)) for story in stories]


def parse(question: str) -> Story:
    """Parse a question.

    Raises:
        NotAProblem: No family has such a story.
    """
    for family in (*TRAINED, TRANSFER):
        opening, *told = re.split(r" (?=\d+\) )", question)
        if not told:
            break
        told[-1] = told[-1].rpartition(" How ")[0]
        story = _read(family, opening, told)
        if story is not None and story.question == question:
            return story
    raise NotAProblem(f"no family has such a story: {question[:80]!r}")


def _read(family: Family, opening: str, told: Sequence[str]) -> Story | None:
    """Parse the sentences of a story as one family; the caller compares the resulting question with the given one."""
    if (start := _pattern(family.opening).fullmatch(opening)) is None:
        return None
    given = start.groupdict()
    events, value, holders = list[tuple[Event, Fields]](), int(given["value"]), [given.get("name")]
    for sentence in told:
        if (read := _read_event(family, sentence.partition(") ")[2])) is None:
            return None
        event, fields = read
        is_same_story = (
            fields.get("name") in (None, holders[-1] or fields.get("name"))
            and fields.get("things") in (None, given.get("things", fields.get("things")))
            and ("other" not in fields or fields["other"] not in holders)
        )
        if not is_same_story or not is_possible(event.kind, value, fields):
            return None
        value = after(event.kind, value, fields)
        holders.append(fields.get("other", holders[-1]))
        events.append(read)
    return Story(family=family, opening=given, events=tuple(events))


def _read_event(family: Family, text: str) -> tuple[Event, Fields] | None:
    for event in family.events:
        if found := _pattern(event.sentence).fullmatch(text):
            return event, found.groupdict()
    return None


def is_possible(kind: Kind, value: int, fields: Fields) -> bool:
    """Tell whether an event leaves an integer in the range of solutions."""
    if kind in (Kind.PART, Kind.LESS_PART) and value % PARTS[fields["part"]]:
        return False
    return 1 <= after(kind, value, fields) <= arithmetic.LARGEST


@cache
def _pattern(sentence: str) -> re.Pattern[str]:
    """Turn a sentence template into a regular expression whose groups are its fields."""
    pattern = re.escape(sentence).replace(r"\{", "{").replace(r"\}", "}")
    return re.compile(_FIELD.sub(lambda field: f"(?P<{field[1]}>{_PATTERNS.get(field[1], _NUMBER)})", pattern))
