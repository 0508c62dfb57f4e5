"""Runs a generator: `python -m services.generator small` or `python -m services.generator large`."""

from __future__ import annotations

import argparse
from functools import partial

from services.generator.serving import serve
from shared.domain.roles import Author
from shared.process import run_role
from shared.worker.command_worker import CONDITIONS


def main() -> None:
    """Run the generator of one author until it is stopped."""
    parser = argparse.ArgumentParser(prog="python -m services.generator", description="Write steps with one model.")
    parser.add_argument("author", choices=[author.value for author in Author], help="model whose commands to carry out")
    author = Author(parser.parse_args().author)
    run_role(partial(serve, author=author), role=author.value, conditions=CONDITIONS)


if __name__ == "__main__":
    main()
