r"""Reads Markdown and LaTeX: which parts of a text are code, and which blank lines are inside a construct.

Code is a fence of back-ticks or tildes as CommonMark has it, inline code, `\verb|...|`, or an environment such as
`verbatim`. Code holds no other construct.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

CODE_BLANK_LINES = 20
"""Maximum number of blank lines in a code block: programs have some, but a fence may never be closed."""

LATEX_BLANK_LINES = 3
"""Maximum number of blank lines in a LaTeX construct: mathematics allows none, but models write some in lists."""

_CODE_INDENT = 4
"""Columns before a line that make it code by themselves, so that it is not a fence."""

BLANK_LINE = re.compile(r"\n(?=[^\S\n]*\n)")
"""The line feed before a blank line, which may hold white space of any kind."""

_LIST_MARKERS = r"(?:(?:[-*+]|\d{1,9}[.)])[ \t]+)"
_LINE = re.compile(rf"(?P<indent>[ \t]*)(?P<markers>{_LIST_MARKERS}*)(?P<fence>`{{3,}}(?=[^`]*$)|~{{3,}})?")
_MARKUP = re.compile(
    r"""
      \\(?:verb|lstinline)\*?(?P<mark>[^\w\s*{\\])[^\n]*?(?P=mark)
    | \\begin\{(?:(?P<code>(?:[BL]?[Vv]erbatim|lstlisting|alltt|minted)\*?)|(?P<begin>[^{}\n]*))\}
    | \\end\{(?P<end>[^{}\n]*)\}
    | \\(?P<bracket>[\[\]])
    | \\.                                       # an escaped character, or a line break such as \\[2pt]
    | (?P<dollars>\$\$)
    | \$(?![\s$])[^$\n]*?(?<![\s\\])\$(?!\d)    # inline mathematics, so that $a$$b$ opens nothing
    | (?<!`)``(?!`)(?=[^`]*'')                  # a quotation in LaTeX: ``so''
    | (?<!`)(?P<ticks>`+)(?!`).+?(?<!`)(?P=ticks)(?!`)
    """,
    re.VERBOSE | re.DOTALL,
)
_INK = re.compile(r"[^\n]")


def read_markup(text: str) -> Iterator[tuple[int, str, bool]]:
    """Read a text from blank line to blank line, in one pass.

    Yields:
        For each blank line, and for the end of the text: its place, the lines before it with spaces instead of code,
        and whether it is inside a construct. What follows a blank line outside is read as a new text.
    """
    reader, start = _Reader(), 0
    for blank in BLANK_LINE.finditer(text):
        lines = reader.read(text[start : blank.start()])
        yield blank.start(), lines, reader.is_open
        if reader.is_open:
            reader.blank_lines += 1
        else:
            reader = _Reader()
        start = blank.end()
    lines = reader.read(text[start:])
    yield len(text), lines, reader.is_open


def without_code(text: str) -> str:
    """Replace code by spaces; all other characters keep their places."""
    return "\n".join(lines for _, lines, _ in read_markup(text))


@dataclass(frozen=True, slots=True)
class _Construct:
    """An open construct."""

    opener: str
    """A fence, a delimiter, or the name of an environment."""
    blank_lines: int
    """Number of blank lines before it."""
    indent: int = 0
    """Columns before a fence."""


@dataclass(slots=True)
class _Reader:
    """Reads lines between blank lines, and keeps what is open after them."""

    blank_lines: int = 0
    _fence: _Construct | None = None
    _code: _Construct | None = None
    """An environment of code."""
    _latex: list[_Construct] = field(default_factory=list)
    _may_be_in_list: bool = True
    """Whether a line with a large indent may be part of a list item; an item may have begun before the text."""

    @property
    def is_open(self) -> bool:
        """Whether one more blank line would be inside a construct."""
        if code := self._fence or self._code:
            return self.blank_lines - code.blank_lines < CODE_BLANK_LINES
        # The newest one decides, because one that is never closed does not count for those after it.
        return bool(self._latex) and self.blank_lines - self._latex[-1].blank_lines < LATEX_BLANK_LINES

    def read(self, lines: str) -> str:
        """Read lines; return them with spaces instead of code."""
        read: list[str] = []
        prose: list[str] = []
        for line in lines.split("\n"):
            if (fence := self._fence) is not None:
                if _closes(fence, line):
                    self._fence = None
                read.append(" " * len(line))
                continue
            if (opened := self._opening_fence(line)) is None:
                prose.append(line)
                continue
            if prose:
                read.append(self._read_prose("\n".join(prose)))
            if self._code is None:
                self._fence, prose = opened, []
                read.append(" " * len(line))
            else:
                prose = [line]
        if prose:
            read.append(self._read_prose("\n".join(prose)))
        return "\n".join(read)

    def _opening_fence(self, line: str) -> _Construct | None:
        """Return the fence that a line opens, unless it is inside other code."""
        found = _LINE.match(line)
        assert found is not None, "the pattern matches an empty string"
        indent = _columns(found["indent"])
        is_fence = found["fence"] is not None and (indent < _CODE_INDENT or self._may_be_in_list)
        if found["markers"]:
            self._may_be_in_list = True
        elif indent <= 1 and line.strip():  # The text of an item is indented by two columns at least.
            self._may_be_in_list = False
        before = line[: found.start("fence")]
        return _Construct(found["fence"], self.blank_lines, _columns(before)) if is_fence else None

    def _read_prose(self, text: str) -> str:
        read: list[str] = []
        at = 0
        while True:
            if self._code is not None:
                end = f"\\end{{{self._code.opener}}}"
                if (closed := text.find(end, at)) < 0:
                    return "".join((*read, _blank(text[at:])))
                read.append(_blank(text[at : closed + len(end)]))
                at, self._code = closed + len(end), None
            if (found := _MARKUP.search(text, at)) is None:
                return "".join((*read, text[at:]))
            is_code = bool(found["mark"] or found["ticks"] or found["code"])
            read += text[at : found.start()], _blank(found[0]) if is_code else found[0]
            at = found.end()
            self._take(found)

    def _take(self, found: re.Match[str]) -> None:
        if found["code"]:
            self._code = _Construct(found["code"], self.blank_lines)
        elif found["begin"] is not None:
            self._open(found["begin"])
        elif found["end"] is not None:
            if not self._close(found["end"]):
                self._close()
        elif found["bracket"] == "[":
            self._open("\\[")
        elif found["bracket"] == "]":
            self._close("\\[")
        elif found["dollars"] and not self._close("$$"):
            self._open("$$")

    def _open(self, opener: str) -> None:
        self._latex.append(_Construct(opener, self.blank_lines))

    def _close(self, opener: str | None = None) -> bool:
        """Close the innermost construct with an opener, or the innermost environment, and what is open inside it."""
        for index in reversed(range(len(self._latex))):
            found = self._latex[index].opener
            if found == opener or (opener is None and found not in ("\\[", "$$")):
                del self._latex[index:]
                return True
        return False


def _closes(fence: _Construct, line: str) -> bool:
    mark = line.strip()
    indent = _columns(line[: len(line) - len(line.lstrip(" \t"))])
    return len(mark) >= len(fence.opener) and set(mark) == {fence.opener[0]} and indent < fence.indent + _CODE_INDENT


def _columns(white_space: str) -> int:
    return len(white_space.expandtabs(4))


def _blank(code: str) -> str:
    return _INK.sub(" ", code)
