"""Runs a PRM worker: `python -m services.prm`."""

from __future__ import annotations

from services.prm.serving import serve
from shared.process import parser, run_role
from shared.worker.command_worker import CONDITIONS

if __name__ == "__main__":
    parser(
        "services.prm",
        "Score steps with the process reward model. It needs TRIM_BROKER_URL. TRIM_ENGINE chooses what runs the model, "
        "and TRIM_PRM_MODEL the model; without them, it is the bundled model on the CPU. With TRIM_ENGINE=openai it "
        "also needs TRIM_PRM_URL.",
    ).parse_args()
    run_role(serve, role="prm", conditions=CONDITIONS)
