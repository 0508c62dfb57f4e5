"""Problems and batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, Unpack

from trim_client import calls
from trim_client.attempts import until_batch_ended, until_ended
from trim_client.calls import Id
from trim_client.connection import Connection
from trim_client.events import Event
from trim_client.following import Following
from trim_client.models.problems import Batch, CancelledBatch, ListedBatch, Problem, SubmittedBatch
from trim_client.models.record import AuditEntry, Decision, Step
from trim_client.options import Conditions, NewProblem, Options


class Problems:
    """Problems, and their record."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def submit(
        self,
        question: str,
        *,
        reference: str | float | None = None,
        idempotency_key: str | None = None,
        **options: Unpack[Options],
    ) -> Problem:
        """Submit a problem, and return it. It waits in the queue until the service starts it.

        Args:
            question: Problem statement.
            reference: Correct answer, if it is known; the verdict compares the solution's answer with it.
            idempotency_key: Key that makes a repeated submission return the first problem. Without one, each call
                makes a new key, under which its own retries submit nothing twice.
            **options: Policy, sampling, limits and the like; the service has defaults.

        Raises:
            InvalidRequest: A field is wrong; the error names it.
            TrimClientError: The service refused it otherwise, or did not answer.
        """
        return self._connection.call(calls.submit_problem(question, reference, options, idempotency_key))

    def solve(
        self,
        question: str,
        *,
        reference: str | float | None = None,
        idempotency_key: str | None = None,
        timeout_s: float | None = None,
        **options: Unpack[Options],
    ) -> Problem:
        """Submit a problem, wait until it ends, and return it. Also a failed problem is returned.

        Args:
            question: Problem statement.
            reference: Correct answer, if it is known.
            idempotency_key: As for `submit`.
            timeout_s: Time limit of the wait; by default there is none.
            **options: As for `submit`.

        Raises:
            WaitTimedOut: The time limit passed before the end; the problem goes on.
            TrimClientError: The service refused it, or did not answer.
        """
        submitted = self.submit(question, reference=reference, idempotency_key=idempotency_key, **options)
        return self.wait(submitted.id, timeout_s=timeout_s)

    def get(self, problem_id: Id) -> Problem:
        """Read a problem.

        Raises:
            NotFound: No problem has this id.
        """
        return self._connection.call(calls.problem(problem_id))

    def wait(self, problem_id: Id, *, timeout_s: float | None = None) -> Problem:
        """Wait until a problem ends, also across lost connections, and return it.

        Args:
            problem_id: Id of the problem.
            timeout_s: Time limit of the wait. By default there is none, as long as the service answers at least every
                five minutes.

        Raises:
            WaitTimedOut: The time limit passed before the end; the problem goes on.
            TrimClientError: The service refused it, or did not answer.
        """
        patience = self._connection.patience(timeout_s)
        return self._connection.run(until_ended(problem_id, patience, address=self._connection.address))

    def stream(self, problem_id: Id, *, after: str | None = None, timeout_s: float | None = None) -> Iterator[Event]:
        """Receive decisions and steps as they come, then the end. Each comes once, also across lost connections.

        Args:
            problem_id: Id of the problem.
            after: `id` of the last event that is known; by default the stream begins with the first.
            timeout_s: Time limit of the stream, observed within some seconds; by default as for `wait`.

        Raises:
            WaitTimedOut: The time limit passed before the end; the problem goes on.
            TrimClientError: The service refused it, or did not answer.
        """
        patience = self._connection.patience(timeout_s)
        return self._connection.events(
            Following(problem_id, after=after, patience=patience, address=self._connection.address)
        )

    def cancel(self, problem_id: Id) -> Problem:
        """Cancel a problem, and return it. One that has ended stays as it is; another one ends a moment later.

        Raises:
            NotFound: No problem has this id.
        """
        return self._connection.call(calls.cancel_problem(problem_id))

    def list(self, *, limit: int | None = None, **conditions: Unpack[Conditions]) -> Iterator[Problem]:
        """List problems, newest first, page by page as they are used.

        Args:
            limit: Maximum number of problems; the default is all.
            **conditions: Which problems: status, policy, batch and the like. Those of a batch come in reverse order of
                submission.
        """
        return self._connection.items(calls.problems(**conditions), limit)

    def steps(self, problem_id: Id, *, limit: int | None = None) -> Iterator[Step]:
        """List the accepted steps of a problem in the order of the solution."""
        return self._connection.items(calls.steps(problem_id), limit)

    def decisions(self, problem_id: Id, *, limit: int | None = None) -> Iterator[Decision]:
        """List the decisions on a problem in the order in which they were taken."""
        return self._connection.items(calls.decisions(problem_id), limit)

    def audit(self, problem_id: Id, *, limit: int | None = None) -> Iterator[AuditEntry]:
        """List the decisions on a problem, each beside the step that the solution now has at its place."""
        return self._connection.items(calls.audit(problem_id), limit)


class Batches:
    """Problems that were submitted together."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def submit(
        self,
        problems: Iterable[str | NewProblem | Mapping[str, Any]],
        *,
        idempotency_key: str | None = None,
        on_error: Literal["reject", "skip"] | None = None,
        **defaults: Unpack[Options],
    ) -> SubmittedBatch:
        """Submit problems together: by default all of them, or none if one is wrong.

        Args:
            problems: Questions, or problems with their options.
            idempotency_key: As for `Problems.submit`.
            on_error: What a wrong problem does: `reject` refuses all of them, and is the default; `skip` submits the
                others, and the result has the wrong ones in `errors`.
            **defaults: Options for those problems that omit them.

        Raises:
            InvalidRequest: A field is wrong, as in `body.problems.3.question`; or the batch is too large.
            TrimClientError: The service refused it otherwise, or did not answer.
        """
        return self._connection.call(calls.submit_batch(problems, defaults, idempotency_key, on_error))

    def get(self, batch_id: Id) -> Batch:
        """Read a batch with the sums over its problems.

        Raises:
            NotFound: No batch has this id.
        """
        return self._connection.call(calls.batch(batch_id))

    def wait(
        self, batch_id: Id, *, timeout_s: float | None = None, show: Callable[[Batch], object] | None = None
    ) -> Batch:
        """Wait until all problems of a batch have ended, and return it.

        Args:
            batch_id: Id of the batch.
            timeout_s: Time limit of the wait; by default as for `Problems.wait`.
            show: Receives the batch after each look at it.

        Raises:
            WaitTimedOut: The time limit passed before the end; the batch goes on.
            TrimClientError: The service refused it, or did not answer.
        """
        patience = self._connection.patience(timeout_s)
        return self._connection.run(until_batch_ended(batch_id, patience, address=self._connection.address, show=show))

    def problems(self, batch_id: Id, *, limit: int | None = None) -> Iterator[Problem]:
        """List the problems of a batch in order of submission."""
        return self._connection.items(calls.batch_problems(batch_id), limit)

    def cancel(self, batch_id: Id) -> CancelledBatch:
        """Cancel those problems of a batch that have not ended, and return the batch."""
        return self._connection.call(calls.cancel_batch(batch_id))

    def list(self, *, limit: int | None = None) -> Iterator[ListedBatch]:
        """List batches, newest first and without sums, page by page as they are used."""
        return self._connection.items(calls.batches(), limit)
