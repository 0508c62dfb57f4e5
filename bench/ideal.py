"""The ideal: the service's orchestrator and workers in one process in memory."""

from __future__ import annotations

import logging
import time

from bench.design import STEPS
from bench.service import POLICY, SCRIPT
from shared.domain.roles import Author
from shared.engines.scripted import Script, ScriptedGenerator, ScriptedScorer
from simulation.simulated_service import SimulatedService
from simulation.workers import Engines


def measure_ideal(problems: int) -> float:
    """Solve problems; return steps per second."""
    # The orchestrator logs the end of each problem.
    logging.getLogger("services.orchestrator").setLevel(logging.WARNING)
    script = Script.model_validate(SCRIPT)
    engines = Engines(
        small=ScriptedGenerator(script, Author.SMALL),
        large=ScriptedGenerator(script, Author.LARGE),
        prm=ScriptedScorer(script),
    )
    service = SimulatedService(engines, window=problems)
    for index in range(problems):
        service.submit(f"What is {index}?", POLICY)
    started = time.perf_counter()
    service.run()
    return problems * STEPS / (time.perf_counter() - started)
