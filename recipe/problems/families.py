"""The families of stories: their events, their sentences, and the effect of each event on a number.

A story follows one number through numbered events. The sentences below are templates. The fields in braces are drawn
for a problem, and parsed from its question:

===========  ================================================================
{name}       person who holds the number (in rates: any person)
{other}      new person, who holds the number from then on
{place}      container that holds the number in rates
{things}     objects that are counted
{value}      the number at the beginning
{amount}     number that is added or subtracted
{count}      number of times {each} occurs
{factor}     `twice` or `3 times`
{part}       `half` or `one third`
===========  ================================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

NAMES = ("Mia", "Tom", "Ana", "Ben", "Lea", "Max", "Zoe", "Sam", "Eva", "Leo", "Ida", "Jon", "Amy", "Dan", "Kim", "Roy")
THINGS = ("apples", "pens", "cards", "books", "shells", "stamps", "beads", "cookies")
PLACES = ("tank", "pool", "barrel")
FACTORS = {"twice": 2, "3 times": 3, "4 times": 4, "5 times": 5}
PARTS = {"half": 2, "one third": 3, "one quarter": 4, "one fifth": 5}


class Kind(StrEnum):
    """Effect of an event on the number."""

    ADD = "add"
    SUBTRACT = "subtract"
    ADD_PRODUCT = "add_product"
    SUBTRACT_PRODUCT = "subtract_product"
    TIMES = "times"
    PART = "part"
    LESS_PART = "less_part"


@dataclass(frozen=True, slots=True)
class Event:
    """One sentence of a story."""

    kind: Kind
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Stories of one kind."""

    name: str
    opening: str
    events: tuple[Event, ...]
    question: str
    unit: str
    """Unit of the number."""


PURCHASES = Family(
    name="purchases",
    opening="{name} has {value} coins.",
    events=(
        Event(Kind.SUBTRACT_PRODUCT, "{name} buys {count} {things} for {each} coins each."),
        Event(Kind.ADD_PRODUCT, "{name} sells {count} {things} for {each} coins each."),
        Event(Kind.SUBTRACT, "{name} pays {amount} coins for {things}."),
        Event(Kind.SUBTRACT, "{name} loses {amount} coins."),
        Event(Kind.ADD, "{name} gets {amount} coins for {things}."),
        Event(Kind.ADD, "{name} earns {amount} coins."),
    ),
    question="How many coins does {name} have now?",
    unit="coins",
)
RATES = Family(
    name="rates",
    opening="The {place} has {value} liters.",
    events=(
        Event(Kind.ADD_PRODUCT, "{count} liters flow in every minute for {each} minutes."),
        Event(Kind.SUBTRACT_PRODUCT, "{count} liters flow out every minute for {each} minutes."),
        Event(Kind.ADD_PRODUCT, "{name} brings {count} buckets with {each} liters each."),
        Event(Kind.SUBTRACT_PRODUCT, "{name} takes {count} buckets with {each} liters each."),
        Event(Kind.ADD, "{name} brings {amount} liters."),
        Event(Kind.SUBTRACT, "{name} takes {amount} liters."),
    ),
    question="How many liters does the {place} have now?",
    unit="liters",
)
AGES = Family(
    name="ages",
    opening="{name} is {value} years old.",
    events=(
        Event(Kind.ADD, "{other} is {amount} years older than {name}."),
        Event(Kind.SUBTRACT, "{other} is {amount} years younger than {name}."),
        Event(Kind.TIMES, "{other} is {factor} as old as {name}."),
        Event(Kind.PART, "{other} is {part} as old as {name}."),
    ),
    question="How old is {name}?",
    unit="years",
)
FRACTIONS = Family(
    name="fractions",
    opening="{name} has {value} {things}.",
    events=(
        Event(Kind.LESS_PART, "{name} gives away {part} of the {things}."),
        Event(Kind.PART, "{name} keeps only {part} of the {things}."),
        Event(Kind.TIMES, "{name} then has {factor} as many {things}."),
        Event(Kind.ADD, "{name} finds {amount} more {things}."),
        Event(Kind.SUBTRACT, "{name} loses {amount} {things}."),
    ),
    question="How many {things} does {name} have now?",
    unit="{things}",
)
COMPARISONS = Family(
    name="comparisons",
    opening="{name} has {value} {things}.",
    events=(
        Event(Kind.ADD, "{other} has {amount} more {things} than {name}."),
        Event(Kind.SUBTRACT, "{other} has {amount} fewer {things} than {name}."),
        Event(Kind.TIMES, "{other} has {factor} as many {things} as {name}."),
        Event(Kind.PART, "{other} has {part} as many {things} as {name}."),
        Event(Kind.ADD_PRODUCT, "{other} has {count} bags of {each} {things} more than {name}."),
        Event(Kind.SUBTRACT_PRODUCT, "{other} has {count} bags of {each} {things} fewer than {name}."),
    ),
    question="How many {things} does {name} have?",
    unit="{things}",
)
TRANSFER = Family(
    name="transfer",
    opening="{name} has {value} {things}.",
    events=(*FRACTIONS.events, *COMPARISONS.events),
    question="How many {things} does {name} have now?",
    unit="{things}",
)
"""Mixes the sentences of two other families: within one story, people gain, lose, and pass the number on. No model is
trained on it. A story with the events of only one family does not belong to it."""

TRAINED = (PURCHASES, RATES, AGES, FRACTIONS, COMPARISONS)
