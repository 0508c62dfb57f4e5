"""A second Ctrl-C ends the waits of the clean-up; the same one, delivered twice, does not."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from stack import interrupts

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def handlers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Restore the handlers of the process of the tests."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    monkeypatch.setattr(interrupts, "_STOP", interrupts._Stop())
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("first", SIGNALS)
@pytest.mark.parametrize(("again", "same_s", "is_urgent"), [
    (signal.SIGINT, 0.0, True),
    (signal.SIGINT, 3600.0, False),
    (signal.SIGTERM, 0.0, False),
    (signal.SIGHUP, 0.0, False),
])  # fmt: skip
def test_only_a_second_ctrl_c_is_urgent(
    monkeypatch: pytest.MonkeyPatch, first: signal.Signals, again: signal.Signals, same_s: float, *, is_urgent: bool
) -> None:
    monkeypatch.setattr(interrupts, "SAME_S", same_s)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    interrupts.unwind_on_signals()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(first)
    signal.raise_signal(again)
    assert interrupts._STOP.is_urgent is is_urgent
    if is_urgent:
        assert not interrupts.wait_until(lambda: False, timeout_s=3600, is_patient=False)


def test_a_signal_that_the_process_ignores_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    interrupts.unwind_on_signals()
    signal.raise_signal(signal.SIGHUP)
