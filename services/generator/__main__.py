"""Runs a generator: `python -m services.generator small` or `python -m services.generator large`."""

from __future__ import annotations

from functools import partial

from services.generator.serving import serve
from shared.domain.roles import Author
from shared.process import parser, run_role
from shared.worker.command_worker import CONDITIONS


def main() -> None:
    """Run the generator of one author until it is stopped."""
    arguments = parser(
        "services.generator",
        "Write steps with the small or the large model. It needs TRIM_BROKER_URL. TRIM_ENGINE chooses what runs the "
        "model, and TRIM_SMALL_MODEL or TRIM_LARGE_MODEL the model; without them, it is the bundled model on the CPU. "
        "With TRIM_ENGINE=openai it also needs TRIM_SMALL_URL or TRIM_LARGE_URL.",
    )
    arguments.add_argument("author", choices=[author.value for author in Author], help="model whose commands to run")
    author = Author(arguments.parse_args().author)
    run_role(partial(serve, author=author), role=author.value, conditions=CONDITIONS)


if __name__ == "__main__":
    main()
