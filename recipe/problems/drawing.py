"""Draws problems. Splits share no template: no training problem tells a test problem's story with other numbers."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from enum import StrEnum

from recipe.problems import arithmetic
from recipe.problems.families import FACTORS, NAMES, PARTS, PLACES, THINGS, TRAINED, TRANSFER, Event, Family, Kind
from recipe.problems.story import Fields, Story, after, is_possible

EVENTS = (3, 5)
"""Minimum and maximum number of events of a whole problem."""

HARD = 0.5
"""Share of the amounts that have two digits, where the range allows it."""


class Split(StrEnum):
    """Purpose of a problem."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"
    TRANSFER = "transfer"


def split_of(story: Story) -> Split:
    """Return the split of a story.

    A story that no trained family can tell is for transfer. For the others the template decides: one in ten is for
    validation, one in ten for the test.
    """
    told = {event for event, _ in story.events}
    if not any(told <= set(family.events) for family in TRAINED):
        return Split.TRANSFER
    digest = hashlib.blake2b(story.template.encode(), digest_size=8).digest()
    return {0: Split.TEST, 1: Split.VALIDATION}.get(digest[0] % 10, Split.TRAIN)


def draw(split: Split, *, seed: int = 0, events: tuple[int, int] = EVENTS) -> Iterator[Story]:
    """Draw an endless sequence of problems; the same arguments give the same sequence.

    Families take turns, so every section of the sequence has equally many of each.

    Args:
        split: Purpose of the problems.
        seed: Another seed gives other problems of the same split.
        events: Minimum and maximum number of events.
    """
    rng = random.Random(f"{split}:{seed}:{events}")
    families = (TRANSFER,) if split is Split.TRANSFER else TRAINED
    while True:
        for family in families:
            story = _tell(rng, family, rng.randint(*events))
            while split_of(story) is not split:
                story = _tell(rng, family, rng.randint(*events))
            yield story


def _tell(rng: random.Random, family: Family, count: int) -> Story:
    names = rng.sample(NAMES, len(NAMES))
    things = rng.choice(THINGS)
    opening = {"name": names[0], "place": rng.choice(PLACES), "things": things, "value": str(rng.randint(5, 70))}
    opening = {field: text for field, text in opening.items() if f"{{{field}}}" in family.opening}
    value, holder, told = int(opening["value"]), names.pop(0), list[tuple[Event, Fields]]()
    while len(told) < count:
        event = rng.choice(family.events)
        fields = {"name": holder, "things": opening.get("things", rng.choice(THINGS)), "other": names[0]}
        fields |= _numbers(rng, event.kind, value)
        fields = {field: text for field, text in fields.items() if f"{{{field}}}" in event.sentence}
        if not is_possible(event.kind, value, fields):
            continue
        told.append((event, fields))
        value = after(event.kind, value, fields)
        if "other" in fields:
            holder = names.pop(0)
        elif family.opening.startswith("The"):
            holder = rng.choice(names)
    return Story(family=family, opening=opening, events=tuple(told))


def _numbers(rng: random.Random, kind: Kind, value: int) -> dict[str, str]:
    """Draw the numbers of an event, if possible ones that leave the result in range.

    Half of the amounts have one digit; the others are as large as the range allows.
    """
    room = value - 1 if kind in (Kind.SUBTRACT, Kind.SUBTRACT_PRODUCT) else arithmetic.LARGEST - value
    amount = rng.randint(10, max(10, room)) if rng.random() < HARD else rng.randint(2, 9)
    count = rng.randint(2, 9)
    return {
        "amount": str(amount),
        "count": str(count),
        "each": str(rng.randint(2, min(9, max(2, room // count)))),
        "factor": rng.choice(
            [text for text, factor in FACTORS.items() if value * factor <= arithmetic.LARGEST] or ["twice"]
        ),
        "part": rng.choice([text for text, divisor in PARTS.items() if value % divisor == 0] or ["half"]),
    }
