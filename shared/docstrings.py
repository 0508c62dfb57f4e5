"""Docstrings of classes that people read, such as the sentences of errors."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap

_STRIPPED = 2
"""Level of `python -OO` and `PYTHONOPTIMIZE=2`, at which the interpreter strips docstrings."""


def docstring_of(kind: type) -> str:
    """Return a class's docstring, from its source if the interpreter strips docstrings; its name if it has none."""
    text = kind.__doc__ if sys.flags.optimize < _STRIPPED else _from_source(kind)
    return inspect.cleandoc(text or f"{kind.__name__}.")


def _from_source(kind: type) -> str | None:
    try:
        [definition] = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    except (OSError, TypeError):  # Only the compiled module is installed, or the class was made at run time.
        return None
    assert isinstance(definition, ast.ClassDef)
    return ast.get_docstring(definition)
