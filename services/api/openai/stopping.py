"""Stop strings: a solution's text ends before the first occurrence of one."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Passes a text on piece by piece, up to the first stop string in it.

    A stop string may begin in one piece and end in another. So the end of a piece that may become one is held until the
    next piece, or the end of the text, decides.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """Take the stop strings, of which there may be none."""
        self._stops = tuple(stops)
        self._held = ""
        self.has_stopped = False
        """Whether a stop string occurred: no text follows."""

    def feed(self, piece: str) -> str:
        """Return what of the text so far, and not returned before, comes before a stop string for certain."""
        text = self._held + piece
        self._held = ""
        if self.has_stopped:
            return ""
        # The one that is complete first, so that the outcome does not depend on the pieces.
        if found := [(place + len(each), place) for each in self._stops if (place := text.find(each)) >= 0]:
            self.has_stopped = True
            _, place = min(found)
            return text[:place]
        kept = max((_overlap(text, each) for each in self._stops), default=0)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]

    def finish(self) -> str:
        """Return the rest of the text: it ended, and no stop string with it."""
        rest, self._held = self._held, ""
        return rest


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of a text that is a beginning of a stop string, but not all of it."""
    longest = min(len(text), len(stop) - 1)
    return next((length for length in range(longest, 0, -1) if text.endswith(stop[:length])), 0)
