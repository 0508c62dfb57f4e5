"""`trim batches`: problems that were submitted together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated
from uuid import UUID

import typer

from cli.output import print_json, print_table
from cli.progress import Move, note, showing_progress
from cli.service import AsJson, Limit, Service
from cli.solutions import cost, local_time
from trim_client import Batch, Client

app = typer.Typer(help="Problems that were submitted together.", no_args_is_help=True)

BatchId = Annotated[UUID, typer.Argument(metavar="ID", help="Id of the batch.", show_default=False)]


@app.callback()
def batches() -> None:
    """Problems that were submitted together."""


@app.command("list")
def list_batches(*, server: Service, limit: Limit = 20, as_json: AsJson = False) -> None:
    """List batches, newest first."""
    with server as client:
        found = list(client.batches.list(limit=limit))
    if as_json:
        print_json([each.model_dump(mode="json") for each in found])
        return
    rows = [(str(each.id), each.status or "-", str(each.size), local_time(each.created_at)) for each in found]
    print_table(("batch", "status", "problems", "submitted"), rows)


@app.command()
def show(batch_id: BatchId, *, server: Service, as_json: AsJson = False) -> None:
    """Show a batch: its problems by status and verdict, why some failed, and what it cost."""
    with server as client:
        found = client.batches.get(batch_id)
    _print(found, as_json=as_json)


@app.command()
def watch(batch_id: BatchId, *, server: Service, as_json: AsJson = False) -> None:
    """Show the progress of a batch until all its problems have ended. Ctrl-C does not cancel them."""
    with server as client:
        [found] = wait_for(client, [client.batches.get(batch_id)])
    _print(found, as_json=as_json)
    if found.statuses.get("succeeded", 0) < found.size:
        raise typer.Exit(1)


@app.command()
def cancel(
    batch_ids: Annotated[list[UUID], typer.Argument(metavar="ID...", help="Ids of batches.", show_default=False)],
    *,
    server: Service,
) -> None:
    """Cancel those problems of batches that have not ended."""
    with server as client:
        for each in batch_ids:
            found = client.batches.cancel(each)
            note(f"{each} is cancelled; {found.ended} of its {found.size} problems have ended.")


def wait_for(client: Client, batches: Sequence[Batch]) -> list[Batch]:
    """Wait until all problems of some batches have ended, and return the batches. Shows the progress."""
    size, before = sum(each.size for each in batches), 0
    ended: list[Batch] = []
    with showing_progress() as show:
        move = show("solved")
        try:
            for each in batches:
                last = client.batches.wait(each.id, show=_counting(move, before, size))
                ended.append(last)
                before += last.size
        except KeyboardInterrupt:
            note("The service goes on; `trim batches watch ID` shows the progress, `trim batches cancel ID` cancels.")
            raise
    return ended


def _counting(move: Move, before: int, size: int) -> Callable[[Batch], object]:
    return lambda batch: move(before + batch.ended, size)


def print_sums(batches: Sequence[Batch]) -> None:
    """Print a table with one row for each batch."""
    columns = ("batch", "problems", "ended", "succeeded", "correct", "steps", "escalated", "large tokens", "submitted")
    rows = [
        (
            str(each.id),
            str(each.size),
            str(each.ended),
            str(each.statuses.get("succeeded", 0)),
            str(each.verdicts.get("correct", 0)),
            str(each.steps),
            str(each.escalations),
            str(each.ledger.large_tokens),
            local_time(each.created_at),
        )
        for each in batches
    ]
    print_table(columns, rows, less=("submitted", "steps", "ended", "escalated"))


def _print(batch: Batch, *, as_json: bool) -> None:
    if as_json:
        print_json(batch.model_dump(mode="json"))
        return
    rows = [
        ("batch", str(batch.id)),
        ("submitted", local_time(batch.created_at)),
        ("problems", str(batch.size)),
        *((f"  {status}", str(count)) for status, count in batch.statuses.items()),
        *((f"  {verdict.replace('_', ' ')}", str(count)) for verdict, count in batch.verdicts.items()),
        ("steps", f"{batch.steps}, {batch.escalations} escalated"),
        ("tokens", cost(batch.ledger)),
        *((f"  {each.code}", f"{each.count}: {each.detail}") for each in batch.failures),
    ]
    print_table(("field", "value"), rows)
