"""The bad days: each scenario runs the service under load, disturbs it, and returns what was measured."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Final

import psycopg

import migrations
from chaos import cluster
from chaos.crashing_worker import CRASHES
from chaos.deployment import NeverHappened
from chaos.hanging_worker import hang
from chaos.load import STEPS
from chaos.measuring import Figures, is_steady
from chaos.meddling import disturb, meddling
from chaos.proxy import Proxy
from chaos.scene import CONCURRENCY, Ground, Outcome, Scene
from shared.domain.status import CRASHES_WORKERS
from shared.worker.quarantine import ALONE_AT, GUILTY_AT
from stack.roles import ROLES, node_name

SECOND: Final = "orchestrator-2"
TWO_ORCHESTRATORS: Final = {SECOND: ROLES["orchestrator"]}

LOCKED_S: Final = 60.0
"""Seconds for which the row of a problem is locked."""

UNLOCKED_S: Final = 15.0
"""Seconds before the lock, and after it, in which the rate is measured too."""

LEAST_LOCKED_RATE: Final = 0.9
"""Least steps per second with one row locked, as a share of those before."""

STEADY: Final = 0.05
"""Share by which the rate may differ after the lock from before it. If it differs by more, the machine was not quiet
enough for the ratio to show the effect of the lock."""

FROZEN_S: Final = 45.0
"""Seconds for which an orchestrator is stopped. Postgres ends its transaction after 15 s, and the broker redelivers its
events once it has missed two or three AMQP heartbeats, of 10 s each."""

MOST_FROZEN_S: Final = 35.0
"""Longest time without a step while it is stopped: three heartbeats, and some seconds until the next step."""

FREEZES: Final = 500
"""Maximum number of attempts to stop an orchestrator in a transaction."""

HUNG_S: Final = 8.0
"""Seconds for which both engines hang; then one recovers."""

BLIP_S: Final = 0.2
MOST_BOUGHT_TWICE: Final = 0.01
"""Largest share of tokens that one blip may buy twice."""

MOST_DEATHS: Final = ALONE_AT + GUILTY_AT + 1
"""Largest number of workers that one question may end; one more than the rule says, as a lost connection counts too."""

UNREPLICATED_S: Final = 3.0
"""Seconds of commits that are lost with the primary."""


def lock(ground: Ground) -> Outcome:
    """A session holds the row lock of one running problem."""
    with ground.scene("lock", more_roles=TWO_ORCHESTRATORS) as scene:
        load, deployment = scene.load, scene.deployment
        load.submit(ground.count(560))
        load.wait_for_steps(4 * CONCURRENCY)
        before = scene.measure_rate(UNLOCKED_S)
        with psycopg.connect(deployment.database_url, application_name="chaos") as person:
            # The problem may end while the statement waits for its row; then it returns none.
            while not person.execute("SELECT 1 FROM problems WHERE status = 'running' LIMIT 1 FOR UPDATE").fetchone():
                person.rollback()
                load.must_last()
            during = scene.measure_rate(LOCKED_S)
            person.rollback()
        after = scene.measure_rate(UNLOCKED_S)
        _judge_rates(scene, before, during, after)
        return scene.conclude()


def _judge_rates(scene: Scene, before: float, during: float, after: float) -> None:
    """Compare the rates; a ratio fails the command only if the machine was quiet."""
    ratio = during / before if before else 0.0
    is_quiet = is_steady(before, after, tolerance=STEADY)
    verdict = "trusted" if is_quiet else "not trusted"
    scene.facts.append(
        f"steps/s with one row locked: {ratio:.1%} of those before ({before:.1f} before, {during:.1f} locked,"
        f" {after:.1f} after); {verdict}, because the rates before and after differ by"
        f" {'at most' if is_quiet else 'more than'} {STEADY:.0%}."
    )
    # If the rate stays far below, the damage has outlasted the lock.
    is_damaged = during < LEAST_LOCKED_RATE * after or after < before / 2
    if ratio < LEAST_LOCKED_RATE and (is_quiet or is_damaged):
        scene.missed.append(f"steps/s with one row locked: {ratio:.1%}, and the bar is {LEAST_LOCKED_RATE:.0%}.")


def frozen_orchestrator(ground: Ground) -> Outcome:
    """One of two orchestrators is stopped in a transaction, and continues later."""
    with ground.scene("frozen-orchestrator", more_roles=TWO_ORCHESTRATORS) as scene:
        scene.load.submit(ground.count(120))
        scene.load.wait_for_steps(4 * CONCURRENCY)
        attempts = _freeze_in_transaction(scene)
        scene.wait(FROZEN_S)
        os.kill(scene.deployment.roles.pids()[SECOND], signal.SIGCONT)
        scene.facts.append(f"stopped in a transaction for {FROZEN_S:.0f} s, at attempt {attempts}.")
        return scene.conclude(bars=_judge_gap)


def _judge_gap(figures: Figures) -> Iterator[str]:
    if figures.longest_gap_s > MOST_FROZEN_S:
        yield f"no step for {figures.longest_gap_s:.1f} s, and the bar is {MOST_FROZEN_S:.0f} s."


def _freeze_in_transaction(scene: Scene) -> int:
    """Stop the second orchestrator at a moment when it holds locks; return the number of attempts.

    Raises:
        NeverHappened: It was in no transaction whenever it was stopped.
    """
    pid = scene.deployment.roles.pids()[SECOND]
    open_transactions = (
        "SELECT 1 FROM pg_stat_activity JOIN pg_locks USING (pid) WHERE application_name = %s"
        " AND state LIKE 'idle in transaction%%' AND relation = 'problems'::regclass AND mode = 'RowShareLock'"
    )
    for attempt in range(1, FREEZES + 1):
        time.sleep(scene.draw.uniform(0, 0.05))
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.02)  # The server finishes the statement that it has.
        if scene.deployment.rows(open_transactions, f"trim-orchestrator {node_name(SECOND)}"):
            return attempt
        os.kill(pid, signal.SIGCONT)
    raise NeverHappened(f"The orchestrator was in no transaction in {FREEZES} attempts.")


def failover(ground: Ground) -> Outcome:
    """The database fails over to a replica that lacks the newest commits, and the client submits again."""
    if not (cluster.BIN / "pg_basebackup").exists():
        return Outcome(name="failover", skipped=f"Postgres' own programs are not in {cluster.BIN}.")
    with cluster.private_cluster() as servers:
        servers.start("")
        migrations.upgrade(servers.url)
        servers.add_replica()
        choices = {"step_timeout_s": 5}
        with ground.scene("failover", choices=choices, database_url=servers.url) as scene:
            load, count = scene.load, ground.count(100)
            load.submit(count)
            load.wait_for_steps(4 * CONCURRENCY)
            servers.sever_replica()
            known = load.count_steps()
            load.submit(count // 5)
            scene.wait(UNREPLICATED_S)
            lost_steps = load.count_steps() - known
            servers.fail_over()
            load.submit_again()
            if not lost_steps:
                scene.missed.append("no step was lost with the primary, so the failover was none.")
            scene.facts.append(f"{lost_steps} steps and {count // 5} submissions were lost with the primary.")
            # Events of problems that the replica does not know become dead letters.
            return scene.conclude(buries=True)


def hung_engines(ground: Ground) -> Outcome:
    """The engines of both small workers hang; one recovers, the other worker ends itself and is replaced."""
    file = ground.folder / "hung-engines" / "hanging"
    small = ["-m", "chaos.hanging_worker", str(file.absolute()), "small"]
    with ground.scene(
        "hung-engines", choices={"step_timeout_s": 5}, more_roles={"small": small, "small-2": small},
        concurrency=str(CONCURRENCY // 2), stall_s="4",
    ) as scene:  # fmt: skip
        scene.load.submit(ground.count(100))
        scene.load.wait_for_steps(4 * CONCURRENCY)
        pids = scene.deployment.roles.pids()
        hang(file, [pids["small"], pids["small-2"]])
        scene.wait(HUNG_S)
        hang(file, [pids["small-2"]])
        ended: list[str] = []

        def have_ended() -> bool:
            ended.extend(scene.deployment.roles.mend())
            return not scene.load.is_open()

        scene.deployment.until(have_ended)
        scene.facts.append(f"both hung for {HUNG_S:.0f} s; one recovered, and {len(ended)} ended and were replaced.")
        return scene.conclude()


def blips(ground: Ground) -> Outcome:
    """All connections of the broker are cut, again and again."""
    with Proxy(ground.broker_url) as proxy, ground.scene("blips", broker_url=proxy.url) as scene:
        scene.load.submit(ground.count(220))
        try:
            for _ in range(ground.blips):
                scene.load.wait_for_steps(scene.draw.randrange(STEPS, 4 * STEPS))
                proxy.cut()
                scene.wait(BLIP_S)
                proxy.mend()
                if not scene.load.is_open():
                    raise NeverHappened("The load ended before the blips did; run it with more problems (--problems).")
        finally:
            proxy.mend()  # The queues are deleted through it.
        scene.facts.append(f"all connections of the broker were cut {ground.blips} times.")
        return scene.conclude(bars=partial(_judge_blips, blips=ground.blips))


def _judge_blips(figures: Figures, *, blips: int) -> Iterator[str]:
    for author, bought in (("small", figures.small_twice), ("large", figures.large_twice)):
        if bought / blips > MOST_BOUGHT_TWICE:
            yield f"{author} tokens bought twice by a blip: {bought / blips:.1%}; the bar is {MOST_BOUGHT_TWICE:.0%}."


def crashing_question(ground: Ground) -> Outcome:
    """One question ends every worker that takes it."""
    small = ["-m", "chaos.crashing_worker", "small"]
    with ground.scene(
        "crashing-question", choices={"policy": {"name": "small-only"}, "step_timeout_s": 600}, step_ms=60,
        more_roles={"small": small, "small-2": small, "small-3": small}, stall_s="600", window="128",
    ) as scene:  # fmt: skip
        scene.load.submit(ground.count(100), more=[{"question": CRASHES}])
        deaths: list[str] = []

        def have_ended() -> bool:
            deaths.extend(scene.deployment.roles.mend())
            return not scene.load.is_open()

        scene.deployment.until(have_ended)
        [row] = scene.deployment.rows("SELECT failure_code FROM problems WHERE question = %s", CRASHES)
        scene.facts.append(f"{len(deaths)} workers ended; the question failed with {row['failure_code']}.")
        if len(deaths) > MOST_DEATHS:
            scene.missed.append(f"{len(deaths)} workers ended, and the bar is {MOST_DEATHS}.")
        if row["failure_code"] != CRASHES_WORKERS:
            scene.missed.append(f"the question should fail with {CRASHES_WORKERS}.")
        return scene.conclude(guilty=[CRASHES])


def everything(ground: Ground) -> Outcome:
    """Messages are moved, doubled, replayed, held and lost, and roles are killed and stopped, as the seed draws."""
    choices = {"step_timeout_s": 2, "max_attempts": 20}
    with (
        ground.scene(
            "everything", choices=choices, step_ms=20, more_roles=TWO_ORCHESTRATORS, concurrency="2", window="64"
        ) as scene,
        meddling(scene.deployment.settings, scene.draw) as meddler,
    ):
        scene.load.submit(ground.count(40))
        disturb(scene.deployment, meddler, scene.draw, victims=["orchestrator", SECOND, "small", "large", "prm"])
        meddler.replay_all()
        scene.deployment.until(lambda: meddler.count_waiting() == 0)
        reasons = meddler.take_reasons()
        wrong = [each for each in reasons if "does not belong on this queue" not in each]
        scene.facts.append(f"{dict(meddler.done)}; {len(reasons)} messages on wrong queues became dead letters.")
        if wrong:
            scene.missed.append(f"{len(wrong)} messages became dead letters for other reasons: {wrong[0]}")
        return scene.conclude()


SCENARIOS: Final[Mapping[str, Callable[[Ground], Outcome]]] = {
    "lock": lock,
    "frozen-orchestrator": frozen_orchestrator,
    "failover": failover,
    "hung-engines": hung_engines,
    "blips": blips,
    "crashing-question": crashing_question,
    "everything": everything,
}


def describe(name: str) -> str:
    """Return the sentence of a scenario."""
    return (SCENARIOS[name].__doc__ or "").splitlines()[0]
