"""Takes many problems one by one: checks each, keeps those that are right apart from the process, counts the others.

Nothing is written to the database before the last problem has arrived, so a client that is slow or leaves holds no
transaction and leaves nothing behind.
"""

from __future__ import annotations

import gzip
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, Literal

from pydantic import TypeAdapter, ValidationError

from services.api.errors import (
    MAX_FIELD_CHARS,
    InvalidSubmission,
    InvalidSubmissions,
    WrongField,
    explain_field,
)
from services.api.json_body import read_json
from services.api.lines import Line
from services.api.schemas.problems import RejectedField
from services.api.schemas.submissions import Choices, ProblemRequest
from services.api.submitting import (
    BatchTooLarge,
    BuiltChoices,
    Checked,
    MeaningDigest,
    check_one_choice,
    check_problem,
    completed,
)
from shared.errors import PermanentError, RetryableError
from shared.settings import Settings
from shared.store.submissions import Idempotency, Submission

OnError = Literal["reject", "skip"]

MAX_REJECTED: Final = 100
"""Maximum number of wrong fields that are kept of a request; all wrong problems are counted."""

_IN_MEMORY_BYTES: Final = 1_048_576
"""Compressed size up to which problems stay in memory; larger ones go to a temporary file."""

_SUBMISSION: Final = TypeAdapter(Submission)


class LineTooLong(PermanentError):
    """The line exceeds the limit of a body (TRIM_MAX_BODY_BYTES); send less in it, or raise the limit."""

    code = "line_too_long"


class StreamNotKept(RetryableError):
    """The service has no room for the stream in its folder for temporary files (TMPDIR); try again later."""

    code = "stream_not_kept"


class Spool:
    """Submissions that wait for their transaction: compressed, in memory or in a temporary file without a name."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES)  # noqa: SIM115 - `close` closes it
        self._writer: gzip.GzipFile | None = gzip.GzipFile(fileobj=self._file, mode="wb", compresslevel=1)
        self._count = 0

    def add(self, submission: Submission) -> None:
        """Keep a submission.

        Raises:
            StreamNotKept: The disk is full, or there is no folder for temporary files.
        """
        assert self._writer is not None, "it is complete"
        with _kept():
            self._writer.write(_SUBMISSION.dump_json(submission) + b"\n")
        self._count += 1

    def __len__(self) -> int:
        """Count the submissions."""
        return self._count

    def __iter__(self) -> Iterator[Submission]:
        """Read the submissions in their order; no further one can be added."""
        with _kept():
            if self._writer is not None:
                self._writer.close()
                self._writer = None
            self._file.seek(0)
            with gzip.GzipFile(fileobj=self._file, mode="rb") as reader:
                yield from map(_SUBMISSION.validate_json, reader)

    def close(self) -> None:
        """Forget the submissions."""
        with suppress(OSError):  # It writes its end.
            if self._writer is not None:
                self._writer.close()
        self._file.close()


@contextmanager
def _kept() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StreamNotKept from error


class Intake:
    """The problems of one request."""

    def __init__(self, settings: Settings, defaults: Choices, *, on_error: OnError) -> None:
        """Take what is the same for all problems.

        Raises:
            InvalidSubmission: The defaults contradict themselves.
        """
        check_one_choice(defaults, field="query.defaults")
        self.spool: Final = Spool()
        self.received = 0
        self.rejected = 0
        self.errors: Final[list[RejectedField]] = []
        self._settings = settings
        self._defaults = defaults
        self._on_error = on_error
        self._built = BuiltChoices()
        self._digest = MeaningDigest()

    def take_line(self, line: Line) -> None:
        """Take a problem from a line; blank lines are none.

        Raises:
            InvalidSubmission: There are too many.
            StreamNotKept: There is no room for it.
        """
        if line.is_blank:
            return
        if self.received == self._settings.max_stream_lines:
            detail = f"The stream has more than {self.received} problems; submit several smaller ones."
            raise InvalidSubmission("body", BatchTooLarge(detail))
        try:
            value = _read(line)
        except PermanentError as error:
            self._reject(line.number, [("", error.code, str(error))])
        else:
            self.take(value, line=line.number)

    def take_all(self, values: Iterable[object]) -> None:
        """Take problems from parsed values.

        Raises:
            StreamNotKept: There is no room for them.
        """
        for each in values:
            self.take(each)

    def take(self, value: object, *, line: int | None = None) -> None:
        """Take a problem from a parsed value.

        Raises:
            StreamNotKept: There is no room for it.
        """
        try:
            checked = self._check(value)
        except ValidationError as error:
            fields = [
                (".".join(map(str, each["loc"])), "invalid_request", explain_field(each, each["loc"], ProblemRequest))
                for each in error.errors(include_url=False, include_input=False)
            ]
            self._reject(line, fields)
        except InvalidSubmission as error:
            self._reject(line, [(error.field.removeprefix("problem").lstrip("."), error.code, error.message)])
        else:
            self.received += 1
            self._digest.add(checked.meaning)
            if self._on_error == "skip" or not self.rejected:
                self.spool.add(checked.submission)

    def finish(self) -> None:
        """Check that problems arrived that can be stored.

        Raises:
            InvalidSubmission: There is none.
            InvalidSubmissions: Some are wrong and none may be, or all are wrong.
        """
        if not self.received:
            raise InvalidSubmission("body", "The body has no problems; send at least one.")
        if self.rejected and (self._on_error == "reject" or not len(self.spool)):
            raise InvalidSubmissions(
                [WrongField(field=_place(each), line=each.line, message=each.message) for each in self.errors],
                rejected=self.rejected,
                received=self.received,
            )

    def idempotency(self, key: str | None) -> Idempotency | None:
        """Pair an idempotency key with the digest of all problems, those that were rejected included."""
        return None if key is None else Idempotency(key=key, digest=self._digest.hexdigest())

    def _check(self, value: object) -> Checked:
        problem = completed(ProblemRequest.model_validate(value), self._defaults)
        return check_problem(problem, self._settings, field="problem", built=self._built)

    def _reject(self, line: int | None, fields: list[tuple[str, str, str]]) -> None:
        room = MAX_REJECTED - len(self.errors)
        self.errors.extend(
            RejectedField(line=line, index=self.received, field=field[:MAX_FIELD_CHARS], code=code, message=message)
            for field, code, message in fields[:room]
        )
        self.received += 1
        self.rejected += 1
        self._digest.add(None)


def _read(line: Line) -> object:
    """Read a line.

    Raises:
        LineTooLong, MalformedBody, MalformedJson: It cannot be read.
    """
    if line.content is None:
        raise LineTooLong
    return read_json(line.content, what="line")


def _place(rejected: RejectedField) -> str:
    """Name the place of a wrong field within the request."""
    start = f"body.problems.{rejected.index}" if rejected.line is None else f"line {rejected.line}"
    return f"{start}.{rejected.field}" if rejected.field else start
