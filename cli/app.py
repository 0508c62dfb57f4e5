"""The `trim` command and its groups."""

from __future__ import annotations

from typing import Annotated

import typer

from cli import batches, calibrating, dead_letters, keys, learning, policies, prm, problems
from cli.checking import check
from cli.compare import compare
from cli.credentials import KeyFile, choose_key_file
from cli.doctor.command import doctor
from cli.errors import reporting_errors
from cli.evaluate import evaluate
from cli.output import complete_output
from cli.replay import replay
from cli.solve import solve
from cli.submit import submit
from shared.setting_names import check_setting_names
from shared.settings import Settings
from shared.version import PRODUCT
from stack.interrupts import EXIT_STOPPED

app = typer.Typer(
    name="trim",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
policies.app.command()(learning.fit)
policies.app.command()(learning.train)
policies.app.command()(calibrating.calibrate)
app.command("solve")(solve)
app.command("submit")(submit)
app.add_typer(problems.app, name="problems")
app.add_typer(batches.app, name="batches")
app.add_typer(policies.app, name="policies")
app.add_typer(prm.app, name="prm")
app.add_typer(dead_letters.app, name="dead-letters")
app.add_typer(keys.app, name="keys")
app.command("evaluate")(evaluate)
app.command("compare")(compare)
app.command("replay")(replay)
app.command("check")(check)
app.command("doctor")(doctor)


def _print_version(*, is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(PRODUCT)
        raise typer.Exit


@app.callback()
def about(
    *,
    version: Annotated[  # noqa: ARG001 - its callback uses it
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    key_file: KeyFile = None,
) -> None:
    """Use a running TRIM service, and fit, train and measure its policies."""
    check_setting_names(Settings)
    choose_key_file(key_file)


def main() -> None:
    """Run the command of the arguments; errors are one sentence on standard error.

    Raises:
        KeyboardInterrupt: The user stopped the command.
    """
    with reporting_errors(), complete_output():
        try:
            app(prog_name="trim")
        except SystemExit as ended:
            if ended.code == EXIT_STOPPED:  # Typer turns Ctrl-C into this status without a word.
                raise KeyboardInterrupt from None
            raise
