r"""Reading Markdown and LaTeX."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.domain.markup import CODE_BLANK_LINES, LATEX_BLANK_LINES, without_code
from shared.domain.text import is_open, split_step

quick = settings(max_examples=100, deadline=None, derandomize=True, database=None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", False),
        # Fences
        ("```\ncode", True),
        ("```\ncode\n```", False),
        ("~~~\ncode", True),
        ("~~~\ncode\n~~~", False),
        ("``` python title='a'\ncode", True),
        ("```\r\ncode\r\n```\r\n", False),
        ("```\ncode\n`````", False),
        ("```\ncode\n```\t ", False),
        ("```\ncode\n```python", True),
        ("```\ncode\n~~~", True),
        ("~~~\n```\n~~~", False),
        ("````\n```\ncode\n```", True),
        ("````\n```\ncode\n```\n````", False),
        ("```\ncode\n``", True),
        ("``\ncode", False),
        ("~~\ncode", False),
        ("```x = 1```\nmore", False),
        ("~~~ a`b\ncode", True),
        ("inline ``` is no fence", False),
        ("\n\n\t ```", True),
        ("   ```\ncode", True),
        ("A line:\n    ```\ncode", False),
        ("- An item:\n    ```\ncode", True),
        ("10. An item:\n\n    ```\n    code", True),
        ("- An item.\nNone any more.\n    ```", False),
        ("- ```python\n  code", True),
        ("1) ~~~\n   code\n   ~~~", False),
        ("```\n    ```\ncode", True),
        ("> ```\n> code", False),
        ("\\```\ncode", False),
        # Inline code
        ("Use `\\begin{align}` here.", False),
        ("Use ``a ` \\begin{align}`` here.", False),
        ("Use `\\begin{align}\nx` here.", False),
        ("Use ` \\begin{align} here.", True),
        ("Use `\\begin{align}\n```\ncode\n```\n` here.", True),
        ("Use \\verb|\\begin{x}| here.", False),
        ("Use \\verb+\\begin{x}+ here.", False),
        ("Use \\verb*!\\begin{x}! here.", False),
        ("Use \\lstinline|\\begin{x}| here.", False),
        ("Use \\verb|\\begin{x}\n| here.", True),
        ("``So'' \\begin{align} ``it is''", True),
        # Environments
        ("\\begin{align} x", True),
        ("\\begin{align} x \\end{align}", False),
        ("\\begin{align*} x \\end{align}", False),
        ("\\begin{a}\\begin{b}\\end{b}", True),
        ("\\begin{a}\\begin{b}\\end{a}", False),
        ("\\end{a} \\begin{b}", True),
        ("\\end{a}", False),
        ("\\\\\\begin{cases} x", True),
        ("\\\\begin{cases} x", False),
        ("\\begin {align} x", False),
        ("\\beginning{a}", False),
        ("\\begin{verbatim}\n```\n\\begin{x}", True),
        ("\\begin{verbatim}\n```\n\\begin{x}\n\\end{verbatim}", False),
        ("\\begin{verbatim} ` \\end{verbatim} \\begin{x}", True),
        ("\\begin{minted}{python}\ncode", True),
        ("```\n\\begin{verbatim}\n```", False),
        # Mathematics
        ("\\[ x", True),
        ("\\[ x \\]", False),
        ("\\]", False),
        ("$$ x", True),
        ("$$ x $$", False),
        ("$$ \\text{a $5 b} $$", False),
        ("$a$$b$ and", False),
        ("It costs $5.\n$$ x", True),
        ("x \\\\[2pt] y", False),
        ("x \\\\\\[ y", True),
        ("\\$$ x", False),
        ("`$$` x", False),
        ("```\n$$\n\\[\n```", False),
        ("\\( x", False),
        ("[ x", False),
    ],
)
def test_text_is_open_inside_code_and_latex(text: str, expected: bool) -> None:
    assert is_open(text) is expected


@pytest.mark.parametrize(
    ("text", "prose"),
    [
        ("a `b` c", "a     c"),
        ("a ``b`c`` d", "a         d"),
        ("a `b c", "a `b c"),
        ("a \\`b` c", "a \\`b` c"),
        ("a\n```b\nc\n```\nd", "a\n    \n \n   \nd"),
        ("a \\verb|b| c", "a          c"),
        ("\\begin{verbatim}a\n\nb\\end{verbatim}c", " " * 17 + "\n\n" + " " * 15 + "c"),
        ("a \\verbose b \\verb c", "a \\verbose b \\verb c"),
        ("an open fence\n```\nb\n\nc", "an open fence\n   \n \n\n "),
    ],
)
def test_code_is_replaced_by_spaces(text: str, prose: str) -> None:
    assert without_code(text) == prose


@pytest.mark.parametrize(
    ("opener", "limit"),
    [
        ("```", CODE_BLANK_LINES),
        ("~~~", CODE_BLANK_LINES),
        ("\\begin{lstlisting}", CODE_BLANK_LINES),
        ("\\begin{cases}", LATEX_BLANK_LINES),
        ("\\[", LATEX_BLANK_LINES),
        ("$$", LATEX_BLANK_LINES),
        ("\\begin{cases}\n\n\\begin{cases}", LATEX_BLANK_LINES + 1),
        ("$$ x $$ \\[", LATEX_BLANK_LINES),
    ],
)
def test_what_is_never_closed_holds_a_limited_number_of_blank_lines(opener: str, limit: int) -> None:
    lines = [f"line {number}" for number in range(CODE_BLANK_LINES + 5)]
    before = opener.count("\n\n")
    step = "\n\n".join((opener, *lines[: limit - before]))
    assert split_step("\n\n".join((opener, *lines))) == (step, "\n\n".join(lines[limit - before :]))
    assert split_step(opener + "\n" * 100) == (opener, "")


def test_a_closed_construct_holds_its_own_blank_lines_after_one_that_is_never_closed() -> None:
    text = "\\begin{cases}\n\na\n\nb\n\n\\[c\n\nd\n\ne\\]"
    assert split_step(f"{text}\n\nf") == (text, "f")


@quick
@given(
    st.lists(
        st.sampled_from(
            [
                "\n", "\n", "\n\n", " ", "\r", "a", "b.", "`", "``", "```", "~~~", "- ", "\\begin{a}", "\\end{a}", "\\",
                "\\[", "\\]", "$", "$$", "\\begin{verbatim}", "\\end{verbatim}", "\\verb|", "|", "''", "\xa0", "    ",
            ]
        ),
        max_size=30,
    )
)  # fmt: skip
def test_the_first_step_is_the_same_however_the_text_is_cut_into_pieces(pieces: list[str]) -> None:
    text = "".join(pieces)
    whole = split_step(text)
    found = [split_step(text[:end]) for end in range(len(text) + 1)]
    if whole is None:
        assert found == [None] * len(found)
        return
    first = next(index for index, each in enumerate(found) if each is not None)
    assert text[first - 1] == "\n", "engines look for a step end at line feeds alone"
    for end in range(first, len(text) + 1):
        step, rest = found[end] or ("", "")
        assert step == whole[0]
        assert text[:end].endswith(rest)
        assert not rest.startswith("\n")


@quick
@given(st.text(alphabet="`~\\verb|beginad{}[]$ \n-'", max_size=60))
def test_code_keeps_its_places(text: str) -> None:
    prose = without_code(text)
    assert len(prose) == len(text)
    assert all(there in (" ", here) for here, there in zip(text, prose, strict=True))
