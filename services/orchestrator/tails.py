"""How much of a prefix a command carries: the last steps, if the workers of its role will probably know the others.

A worker knows the prefix of the last command that it took for a problem. The more workers share a queue, the more
commands of a problem pass between two that come to the same worker. One that does not know what is left out asks for
it (`PrefixMissing`), which takes one more round.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from shared.domain.roles import Author, WorkerRole
from shared.machine.state import State
from shared.messages import Command, GenerateSteps, PrefixMissing

COMMANDS_PER_WORKER: Final = 1
"""A tail reaches back over this many commands of the problem for each worker of the role: with many workers, one in
three commands (exp(-1)) then comes to a worker that has had none of them. To bring it what it lacks costs less than to
carry more in every command."""

LEAST: Final = 8
"""Steps that every command carries."""


@dataclass(slots=True)
class Tails:
    """Shortens the commands of one orchestrator."""

    workers: Mapping[WorkerRole, int] = field(default_factory=dict)
    """Number of workers of each role; commands to a role that is missing carry the whole prefix."""
    least: int = LEAST
    """Steps that every command carries, if there are as many."""

    def shorten(self, command: GenerateSteps, state: State) -> GenerateSteps:
        """Leave out the steps of its prefix that the workers of its role will probably know."""
        workers = self.workers  # Another thread replaces it.
        if command.results_to == "prm" and (count := workers.get(WorkerRole.PRM)) is not None:
            scored_prefix = max(self.least, COMMANDS_PER_WORKER * count)
            if scored_prefix < command.first_step + command.max_steps:
                command = command.model_copy(update={"scored_prefix": scored_prefix})
        if (count := workers.get(WorkerRole(command.author))) is not None:
            carried = self._carried(command, state, commands=COMMANDS_PER_WORKER * count)
            if carried < command.first_step:
                command = command.with_prefix(command.prefix, omit=command.first_step - carried)
        return command

    def _carried(self, command: GenerateSteps, state: State, *, commands: int) -> int:
        """Return the number of steps that reach back over some commands of the author."""
        lookahead = state.options.lookahead
        if command.author is Author.SMALL:
            # A command begins that far after the one before it, unless the large model wrote steps without drafts.
            return command.first_step if lookahead is None else max(self.least, commands * (lookahead + 1))
        large = (step.index for step in reversed(state.steps) if step.author is Author.LARGE)
        oldest = next(islice(large, commands - 1, None), 0)
        return max(self.least, command.first_step - oldest)


def lengthen(whole: Command, *, missing: PrefixMissing) -> Command:
    """Return a command that carries the steps that its worker lacked.

    One that was lost with a worker stays whole: it may have to run alone, and then it should not be handed back again.

    Args:
        whole: The command with its whole prefix.
        missing: The worker's event.
    """
    return whole.with_prefix(whole.prefix, omit=0 if missing.losses else missing.known_steps)


WHOLE: Final = Tails()
"""Leaves out nothing."""
