"""Prose is plain technical English: phrases that have a plainer equivalent do not occur."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

FOLDERS = (
    "bench",
    "chaos",
    "cli",
    "client",
    "deploy",
    "docs",
    "evaluation",
    "migrations",
    "models",
    "recipe",
    "release",
    "services",
    "shared",
    "simulation",
    "stack",
    "tests",
    "training",
)

PHRASES = {
    r"\bbe it\b": "for example",
    r"\bwhoever\b": "name the actor",
    r"\b(is|are|was|were) told\b": "name what is logged, returned or shown",
    r"\bsay(s|ing)? (by|how|so|what|where|which|who|why)\b": "state, log or return it",
    r"\bso many\b": "a number of",
    r"\bof (its|their) own\b": "own, separate",
    r"\bwanted no more\b": "cancelled",
    r"\b(it|they) (was|were|is|are) about\b": "name the relation",
    r"\bgiv(e|es|en|ing) (\w+ ){0,2}back\b": "return, requeue",
    r"\b(is|are|was|were) given up\b": "abandon",
    r"\btak(e|es|en|ing) (\w+ )?up again\b": "resume",
    r"\bask(s|ed|ing)? (\w+ )?(for )?(\w+ )?again\b": "retry, request again",
    r"\bsigns? of life\b": "heartbeat",
    r"\b(they|it) stands?\b": "is",
    r"\bstands? there\b": "is",
    r"\bthat there (is|are)\b": "available, existing",
    r"\bfor nothing\b": "wasted",
    r"\bfor good\b(?! reason)": "permanently",
    r"\bdo(es)? away with\b": "discard, remove",
    r"\bin (its|their) hands\b": "hold",
    r"\bhears? of\b|\bheard of\b": "receive, observe",
    r"\bin the place of\b": "instead of",
    r"\bcan be had\b": "available",
    r"\bfuller\b": "larger",
    r"\ba moment ago\b": "concurrently, before",
    r"\banew\b": "again, new",
    r"\b[Mm]ost (bytes|events|items|problems|steps|tokens|wrong) (at|in|of|that)\b": "maximum number of",
    r"\b(it|this) is no [a-zA-Z]": "is not a",
    r"\bas ever\b": "unchanged",
    r"\bwhat is out\b": "pending, in flight",
    r"\bmake up for\b": "compensate",
}
"""Each phrase with what to write instead."""


def files() -> Iterator[Path]:
    yield ROOT / "README.md"
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".md", ".py"):
                yield path


def hits(path: Path) -> list[str]:
    """Find the phrases in a file, also across line breaks and comment marks, and in snake_case names."""
    text = re.sub(r"\s*\n\s*(#:? )?", " ", path.read_text()).replace("_", " ")
    name = path.relative_to(ROOT)
    return [
        f"{name}: {text[max(0, found.start() - 30) : found.end() + 20]!r} ({instead})"
        for phrase, instead in PHRASES.items()
        for found in re.finditer(phrase, text, re.IGNORECASE)
    ]


def test_no_checked_file_holds_a_phrase_that_has_a_plainer_one() -> None:
    checked = [path for path in files() if path != Path(__file__)]
    assert len(checked) > 30
    found = [hit for path in checked for hit in hits(path)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("text", ["be it\n    late", "Of its\n# own", "whoever", "it_is_told_to_stop"])
def test_a_phrase_is_found_across_lines_and_in_names(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.unit.test_words.ROOT", tmp_path)
    (tmp_path / "page.md").write_text(text)
    assert len(hits(tmp_path / "page.md")) == 1
