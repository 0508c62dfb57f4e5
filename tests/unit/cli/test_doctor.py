"""`trim doctor`: what it makes of the reasons that clients give, and how it waits."""

from __future__ import annotations

import threading
import time

import psycopg
import pytest

from cli.doctor.findings import Fault, Finding, State, unchecked
from cli.doctor.looking import NoAnswer, look_at_all
from cli.doctor.remedies import fault_of
from cli.errors import NotInstalled
from shared.errors import RetryableError, TrimError

REASONS = {
    'connection failed: connection to server at "10.0.0.1", port 5432 failed: FATAL:  password authentication failed'
    ' for user "trim"': "Correct user and password in TRIM_X.",
    'failed: FATAL:  no pg_hba.conf entry for host "10.0.0.2"': "Allow this machine and user in pg_hba.conf",
    "failed: session is read-only": "Name the primary in TRIM_X",
    "failed: FATAL:  sorry, too many clients already": "raise max_connections",
    "connection timeout expired": "check host and port in TRIM_X",
    "[Errno 104] Connection reset by peer": "Start the server, or correct TRIM_X.",
    "Connection.open: (530) NOT_ALLOWED - access to vhost 'x' refused for user 'y'": "rabbitmqctl set_permissions",
}


@pytest.mark.parametrize(("reason", "remedy"), REASONS.items())
def test_the_reason_of_a_client_leads_to_what_mends_it(reason: str, remedy: str) -> None:
    error = RetryableError()
    error.__cause__ = psycopg.OperationalError(f"{reason}\nfurther lines")
    fault = fault_of(error, "The database at db:5432/trim", "TRIM_X")
    assert fault.sentence == f"The database at db:5432/trim: {reason.rpartition('failed: ')[2]}."
    assert remedy in f"{fault.remedy} {fault.command}"


def test_a_library_that_is_missing_is_named_with_its_extra() -> None:
    missing = NotInstalled("This command needs psycopg; install it with pip install '.[store]'.")
    assert fault_of(missing, "The database", "TRIM_X") == Fault("The database was not looked at.", str(missing))


def test_servers_are_looked_at_together_and_none_for_longer_than_the_limit() -> None:
    done = threading.Event()

    def refuse() -> object:
        raise TrimError("No.")

    began = time.monotonic()
    seen = look_at_all({"well": lambda: 7, "refuses": refuse, "hangs": done.wait, "hangs too": done.wait}, limit_s=0.2)
    assert time.monotonic() - began < 5
    done.set()
    assert seen["well"] == 7
    assert str(seen["refuses"]) == "No."
    assert [str(seen[name]) for name in ("hangs", "hangs too")] == ["It did not answer within 0 s."] * 2
    assert isinstance(seen["hangs"], NoAnswer)


def test_a_defect_of_the_command_itself_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        look_at_all({"defect": lambda: 1 / 0})


def test_a_finding_with_faults_is_wrong_and_one_without_is_ok_or_unchecked() -> None:
    assert Finding(name="x").state is State.OK
    assert Finding(name="x", faults=[Fault("a", "b")]).state is State.WRONG
    assert unchecked("x", "Why.").value == {
        "name": "x", "state": "unchecked", "sentence": "Why.", "faults": [], "facts": {},
    }  # fmt: skip
