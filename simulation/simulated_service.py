"""The whole service in memory, step by step under the caller's choice, or run to completion."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID

from services.orchestrator.applying import Outgoing
from services.orchestrator.batches import apply_deliveries
from services.orchestrator.policy_cache import PolicyCache
from services.orchestrator.setting_aside import SetAside
from services.orchestrator.sweeping import Sweep, admit, attend, take_turns, tell_roles
from services.orchestrator.tails import Tails
from shared.bus.topology import EVENTS, DeadLetter
from shared.domain.options import Options, Wrappers
from shared.domain.roles import WorkerRole
from shared.domain.shadows import Shadow
from shared.machine.state import State, new_state
from shared.messages import UndecodableMessage
from shared.policies.policy import FittedPolicy, Policy
from shared.policies.shadowing import reporting
from shared.policies.wrapping import UNWRAPPED, Routing
from shared.store.port import Transaction
from shared.worker.known_prefixes import MAX_BYTES
from simulation.bus import Letter, MemoryBus
from simulation.clock import SettableClock
from simulation.store import TENANT, MemoryStore
from simulation.workers import Engines, RunningCommand, Workers


class SimulatedService:
    """The real workers and the real orchestrator on a simulated clock, bus and store.

    Nothing here decides anything: what workers and orchestrator publish goes onto the bus, and what is on the bus goes
    to them when the caller delivers it.
    """

    def __init__(
        self,
        engines: Engines,
        *,
        window: int = 64,
        store: MemoryStore | None = None,
        bus: MemoryBus | None = None,
        remembered_bytes: int = MAX_BYTES,
    ) -> None:
        """Start with no problems.

        Args:
            engines: The engines of the workers.
            window: Maximum number of problems that run at the same time.
            store: The store; by default an empty one.
            bus: The bus; by default one without history.
            remembered_bytes: Size of the prefixes that each worker remembers.
        """
        self.clock = SettableClock()
        self.store = store or MemoryStore()
        self.bus = bus or MemoryBus(keeps_history=False)
        self.running: list[RunningCommand] = []
        """Commands that workers are carrying out."""
        self.accepts_dead_letters = False
        """Whether a message may be buried; by default that is an error."""
        self._workers = Workers(engines, self.bus, self.clock.clock, remembered_bytes=remembered_bytes)
        self._policies = PolicyCache(self.store)
        self.tails = Tails()
        """How much of a prefix commands carry; by default all of it."""
        self._window = window
        self._wake_ups = 0
        self._submitted = 0
        self._away: dict[WorkerRole, tuple[datetime, datetime]] = {}
        """When roles left, and when they come back."""

    # --- the submitter ------------------------------------------------------------------------------------------------

    def submit(
        self,
        question: str,
        policy: Policy,
        options: Options | None = None,
        *,
        reference: str | None = None,
        wrappers: Wrappers = UNWRAPPED,
        shadows: Sequence[Policy] = (),
        tenant: UUID = TENANT,
    ) -> UUID:
        """Submit a problem, and return its id; the next sweep admits it."""
        routing, shadowing = self._register(policy, wrappers), [self._register(each) for each in shadows]
        self._submitted += 1
        problem_id = UUID(int=self._submitted)
        state = new_state(
            problem_id=problem_id,
            question=question,
            reference=reference,
            options=replace(options or Options(), plan=reporting(routing.plan, shadowing)),
        )
        chosen = [Shadow(policy=each.choice) for each in shadowing]
        self.store.submit(state, routing.choice, shadows=chosen, tenant=tenant)
        return problem_id

    def _register(self, policy: Policy, wrappers: Wrappers = UNWRAPPED) -> Routing:
        """Wrap a policy, and register the artefact of a fitted one."""
        artefact = policy.artefact if isinstance(policy, FittedPolicy) else None
        return Routing(policy, wrappers, self.store.register(artefact.encoded) if artefact else None)

    def cancel(self, problem_id: UUID) -> None:
        """Request the cancellation of a problem; the next sweep carries it out."""
        self.store.request_cancel(problem_id, now=self.clock.now)

    def state(self, problem_id: UUID) -> State:
        """Return a problem as committed, with all its decisions."""
        return self.store.state(problem_id)

    # --- one thing at a time ------------------------------------------------------------------------------------------

    def deliver(self, place: int = 0, *, crashes: bool = False) -> None:
        """Deliver one of the messages on their way; a command only begins.

        Args:
            place: Place among the messages.
            crashes: Whether the orchestrator that takes the event crashes between commit and publication.
        """
        letter = self.bus.take(place)
        if letter.queue == EVENTS:
            self._orchestrate([letter], crashes=crashes)
        elif letter.queue is None:
            self._workers.hear(letter)
        else:
            self._start(letter.queue, letter)

    def work(self, place: int = 0, *, holds: bool = False) -> None:
        """Have a worker finish one more step of a command, or end it; see `RunningCommand.work` for `holds`."""
        command = self.running[place]
        try:
            command.work(holds=holds)
        finally:
            if command.is_over:
                del self.running[place]

    def take_away(self, role: WorkerRole, *, for_s: float) -> None:
        """Have all workers of a role crash, and start again after some seconds; the orchestrators know it at once."""
        for place in reversed(range(len(self.running))):
            if self.running[place].role is role:
                self.crash_worker(place)
        self._away[role] = self.clock.now, self.clock.now + timedelta(seconds=for_s)

    def crash_worker(self, place: int = 0) -> None:
        """Crash a worker in the middle of a command."""
        self.running.pop(place).crash()

    def sweep(self, *, crashes: bool = False) -> None:
        """Admit queued problems, and attend to overdue, expired and cancelled ones.

        Args:
            crashes: Whether the orchestrator crashes between commit and publication.
        """
        self._bring_back()
        for outgoing in take_turns(self._admit, self._attend, self._tell_roles):
            if not crashes:
                self._publish(outgoing)

    def wait(self, seconds: float) -> None:
        """Let time pass, and sweep."""
        self.clock.advance(seconds)
        self.sweep()

    def _start(self, role: WorkerRole, letter: Letter) -> None:
        """Have a worker begin a command, or bury a message that another queue carries."""
        try:
            self.running.append(self._workers.start(role, letter))
        except UndecodableMessage as error:
            self._publish([DeadLetter(role, letter.body, error.reason)])

    # --- to the end ---------------------------------------------------------------------------------------------------

    def run(self, *, threads: int = 0, tell: Callable[[int], object] = lambda _: None) -> None:
        """Run until all problems have ended and nothing is on its way.

        Args:
            threads: Number of commands that workers carry out at the same time, each in a thread, for engines that
                batch concurrent calls; 0 carries them out one after the other.
            tell: Receives the number of open problems whenever something has happened.

        Raises:
            EngineDead: An engine broke down.
        """
        while self.running:
            self.work()
        self.sweep()
        if threads:
            with ThreadPoolExecutor(threads) as pool:
                try:
                    self._run(pool.submit, tell)
                finally:  # The pool waits for its threads, which take the lock when they are done.
                    self.bus.let_go()
        else:
            self._run(_run_at_once, tell)

    def turn(self) -> bool:
        """Do the next thing that an undisturbed service would do; return whether anything is left to do."""
        if (place := self._deliverable()) is not None:
            self.deliver(place)
        elif self.running:
            self.work()
        elif self.store.open_problems:
            self._let_time_pass()
        else:
            return False
        self._admit_if_woken()
        return True

    def _run(self, submit: Callable[[Callable[[], None]], Future[None]], tell: Callable[[int], object]) -> None:
        """Deliver whatever is there, and have commands carried out to their ends."""
        changed, working = self.bus.changed, set[Future[None]]()
        while True:
            with changed:
                changed.wait_for(lambda: self.bus.letters or all(each.done() for each in working))
                letters = self.bus.take_all()
            for each in [each for each in working if each.done()]:
                working.remove(each)
                each.result()
            for letter in letters:
                if letter.queue is None:
                    self._workers.hear(letter)
                elif letter.queue != EVENTS:
                    carried_out = submit(self._workers.start(letter.queue, letter).finish)
                    carried_out.add_done_callback(self._notify)
                    working.add(carried_out)
            if letters:
                self._orchestrate([letter for letter in letters if letter.queue == EVENTS])
            elif not working and not self.store.open_problems:
                return
            elif not working:
                self._let_time_pass()
            self._admit_if_woken()
            tell(len(self.store.open_problems))

    def _notify(self, _finished: Future[None]) -> None:
        with self.bus.changed:
            self.bus.changed.notify_all()

    def _let_time_pass(self) -> None:
        """Advance to the moment at which something is due, or a role comes back."""
        moments = [self.store.next_attention_at(), *(returns_at for _, returns_at in self._away.values())]
        due_at = min((each for each in moments if each is not None), default=None)
        if due_at is not None:
            self.clock.advance_to(due_at)
        self.sweep()

    def _deliverable(self) -> int | None:
        """Return the place of the first message whose consumer is there."""
        queues = [letter.queue for letter in self.bus.letters]
        return next((place for place, queue in enumerate(queues) if queue not in self._away), None)

    def _bring_back(self) -> None:
        """Start the workers of roles whose time has come; they carry out what has waited for them, as if it was new."""
        for role, (_, returns_at) in list(self._away.items()):
            if returns_at <= self.clock.now:
                del self._away[role]
                self.bus.renew(role, now=self.clock.now)

    # --- the orchestrator ---------------------------------------------------------------------------------------------

    def _now(self) -> datetime:
        """Read the clock of the orchestrator."""
        return self.clock.now

    def _orchestrate(self, letters: Sequence[Letter], *, crashes: bool = False) -> None:
        """Apply events in one transaction, commit, and publish, unless the orchestrator crashes in between."""
        deliveries = [letter.delivered() for letter in letters]
        aside = SetAside(monotonic=self.clock.clock.monotonic)  # It stays empty: one transaction runs at a time.
        applied = apply_deliveries(
            self.store, deliveries, aside=aside, policies=self._policies, tails=self.tails, now=self._now
        )
        if crashes:
            for letter in letters:
                self.bus.put_back(letter)
        else:
            self._publish(applied.outgoing)

    def _publish(self, outgoing: Sequence[Outgoing]) -> None:
        for each in outgoing:
            if isinstance(each, DeadLetter) and not self.accepts_dead_letters:
                raise AssertionError(f"a message was buried: {each.reason}")
        self.bus.publish(*outgoing)

    def _admit_if_woken(self) -> None:
        if self.store.wake_ups > self._wake_ups:
            self._wake_ups = self.store.wake_ups
            for outgoing in take_turns(self._admit):
                self._publish(outgoing)

    def _admit(self) -> Sweep:
        return admit(
            self.store,
            window=self._window,
            policies=self._policies,
            tails=self.tails,
            now=self._now,
            away=lambda: self._away,
        )

    def _attend(self) -> Sweep:
        return attend(self.store, roles=self._roles, policies=self._policies, tails=self.tails, now=self._now)

    def _tell_roles(self) -> Sweep:
        return tell_roles(self.store, roles=self._roles, policies=self._policies, tails=self.tails, now=self._now)

    def _roles(self, _transaction: Transaction, _now: datetime) -> Mapping[WorkerRole, datetime]:
        return {role: since for role, (since, _) in self._away.items()}


def _run_at_once(work: Callable[[], None]) -> Future[None]:
    work()
    done: Future[None] = Future()
    done.set_result(None)
    return done
