"""Remembers in which form a model wrote its steps, so that later calls continue exactly that."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sized
from typing import Generic, TypeVar

Form = TypeVar("Form", bound=Sized)


class Written(Generic[Form]):
    """Forms of steps by the digest of the prefix that each completes; forgets the least recently used ones."""

    def __init__(self, limit: int) -> None:
        """Take the maximum sum of lengths of the forms."""
        self._limit = limit
        self._size = 0
        self._forms: OrderedDict[str, Form] = OrderedDict()
        self._changing = threading.Lock()

    def recall(self, digest: str) -> Form | None:
        """Return the form in which the model wrote a step, if it is known."""
        with self._changing:
            if digest in self._forms:
                self._forms.move_to_end(digest)
            return self._forms.get(digest)

    def remember(self, digest: str, form: Form) -> None:
        """Keep the form in which the model wrote a step."""
        with self._changing:
            if (earlier := self._forms.pop(digest, None)) is not None:
                self._size -= len(earlier)
            self._forms[digest] = form
            self._size += len(form)
            while self._size > self._limit:
                _, forgotten = self._forms.popitem(last=False)
                self._size -= len(forgotten)

    def clear(self) -> None:
        """Forget everything, as another worker would not know it."""
        with self._changing:
            self._forms.clear()
            self._size = 0
