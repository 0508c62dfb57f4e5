"""`trim dead-letters`: the messages that the service could not use, at the broker."""

# ruff: noqa: PLC0415 - the broker's libraries are imported only where they are needed

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final
from uuid import UUID

import typer
from rich.filesize import decimal

from cli.confirming import Yes, confirm
from cli.embedded import with_broker
from cli.errors import reaching_servers, requiring
from cli.output import print_json
from cli.progress import note, showing_progress
from cli.service import AsJson, Limit
from cli.terminal import hanging, printable
from shared.errors import PermanentError
from shared.settings import Settings

if TYPE_CHECKING:
    from shared.bus.dead_letters import DeadLetters, Letter
    from shared.bus.topology import QueueRole

SEARCHED: Final = 5_000
"""Number of letters of each queue among which ids are searched: a search takes them from the queue one by one."""

SHORT: Final = 8
"""Number of digits of an id in a listing."""

app = typer.Typer(help="Messages that the service could not use.", no_args_is_help=True)


class Queue(StrEnum):
    """Queues of the service, by who takes their messages."""

    SMALL = "small"
    LARGE = "large"
    PRM = "prm"
    EVENTS = "events"


class NoSuchLetter(PermanentError):
    """No dead letter has this id; `trim dead-letters list` shows those that the broker holds."""

    code = "no_such_letter"


class Id(str):
    """The first digits of an id, in lower case."""

    __slots__ = ()


def _parse(text: str) -> Id:
    if not re.fullmatch(r"[0-9a-fA-F-]{4,36}", text):
        raise typer.BadParameter(f"{text!r} is not an id, nor at least 4 of its first digits")
    return Id(text.lower())


OneQueue = Annotated[Queue | None, typer.Option("--queue", help="Only the dead letters of this queue.")]
Ids = Annotated[
    list[Id] | None,
    typer.Argument(parser=_parse, metavar="[ID]...", help="Ids, or their first digits.", show_default=False),
]
All = Annotated[bool, typer.Option("--all", help="All letters instead of ids.")]


@app.callback()
def dead_letters() -> None:
    """Messages that the service could not use; the broker of TRIM_BROKER_URL keeps them."""


@app.command("list")
def list_letters(*, queue: OneQueue = None, limit: Limit = 20, as_json: AsJson = False) -> None:
    """List dead letters, the oldest of each queue first."""
    with _opened() as letters:
        counts = letters.count()
        roles = [role for role in _roles(queue) if counts[role]]
        found = [_describe(each) for role in roles for each in _read(letters, role, limit)]
    total, shown = sum(counts[role] for role in roles), found[:limit]
    if as_json:
        print_json({"total": total, "letters": shown})
        return
    for each in shown:
        _print_row(each)
    if not total:
        note("There are no dead letters.")
    elif total > len(shown):
        note(f"{total - len(shown)} more; -n shows more, --queue only those of one queue.")


@app.command()
def show(
    letter: Annotated[Id, typer.Argument(parser=_parse, metavar="ID", help="Id, or its first digits.")],
    *,
    queue: OneQueue = None,
    texts: Annotated[bool, typer.Option("--texts", help="Show question, steps and drafts as well.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show a dead letter: reason, headers and content. Texts of problems only with --texts."""
    found: Letter | None = None
    with _opened() as letters:
        for each in _search(letters, _roles(queue), [letter]):
            found = found or each
    assert found is not None
    described = _describe(found) | {"headers": _headers(found), "content": _content(found, texts=texts)}
    if as_json:
        print_json(described)
        return
    for name, value in described.items():
        if name != "content":
            print(f"{name:12} {printable(value if isinstance(value, str) else json.dumps(value))}")
    content = described["content"]
    print(content if isinstance(content, str) else json.dumps(content, indent=2))


@app.command()
def replay(ids: Ids = None, *, every: All = False, queue: OneQueue = None, yes: Yes = False) -> None:
    """Put dead letters on their queue again, and remove them here once the broker has confirmed that.

    If the command is cut off in between, a message may be there twice; the service books it once.
    """
    if every and queue is None:
        raise typer.BadParameter("--all needs --queue: the letters of one queue usually have one cause")
    with requiring("bus"):
        from shared.bus.publisher import Publisher
        from shared.bus.topology import ReplayedLetter
    choice = _choose(ids or [], every=every, queue=queue)
    if choice.count:
        confirm(f"Replay {choice}?", yes=yes)

        def publish(letter: Letter) -> None:
            publisher.publish([ReplayedLetter(letter.role, letter.body, letter.signature)])

        with closing(Publisher(choice.settings)) as publisher:
            _act_on(choice, "Replayed", publish)


@app.command()
def discard(ids: Ids = None, *, every: All = False, queue: OneQueue = None, yes: Yes = False) -> None:
    """Delete dead letters permanently."""
    choice = _choose(ids or [], every=every, queue=queue)
    if choice.count:
        confirm(f"Discard {choice}? They cannot be restored.", yes=yes)
        _act_on(choice, "Discarded", lambda _: None)


@dataclass(frozen=True, slots=True)
class _Choice:
    """The letters that a command acts on."""

    settings: Settings
    counts: Mapping[QueueRole, int]
    """Number of letters of each queue that is looked through."""
    ids: Collection[tuple[QueueRole, UUID]] | None
    """Ids of the chosen letters, once for each copy; `None` for all letters."""

    @property
    def count(self) -> int:
        return sum(self.counts.values()) if self.ids is None else len(self.ids)

    def includes(self, letter: Letter) -> bool:
        return self.ids is None or (letter.role, letter.id) in self.ids

    def __str__(self) -> str:
        where = ", ".join(f"{count} of {role}" for role, count in self.counts.items())
        letters = f"{self.count} dead letter{'s' if self.count > 1 else ''}"
        return letters if self.ids is not None else f"{letters} ({where})"


def _choose(ids: Sequence[Id], *, every: bool, queue: Queue | None) -> _Choice:
    """Find the letters to act on. They are then found again: while the user thinks, all are on their queues."""
    if every == bool(ids):
        raise typer.BadParameter("name either ids or --all")
    with reaching_servers():
        settings = with_broker(Settings())
    with _opened(settings) as letters:
        counted = letters.count()
        counts = {role: counted[role] for role in _roles(queue) if counted[role]}
        chosen = None if every else [(each.role, each.id) for each in _search(letters, list(counts), ids)]
    choice = _Choice(settings, counts, chosen)
    if not choice.count:
        note("There are no dead letters.")
    return choice


def _act_on(choice: _Choice, done: str, act: Callable[[Letter], object]) -> None:
    """Act on each chosen letter, then remove it."""
    count = 0
    try:
        with _opened(choice.settings) as letters, showing_progress() as begin:
            move = begin("letters")
            for role, stored in choice.counts.items():
                for each in _read(letters, role, stored if choice.ids is None else SEARCHED):
                    if count < choice.count and choice.includes(each):
                        act(each)
                        letters.remove(each)
                        count += 1
                        move(count, choice.count)
    finally:
        note(f"{done} {count} of {choice.count}.")


@contextmanager
def _opened(settings: Settings | None = None) -> Iterator[DeadLetters]:
    with requiring("bus"):  # With pgmq it needs that extra, which the error names.
        from shared.bus.dead_letters import opened
    with reaching_servers(), opened(settings or with_broker(Settings())) as letters:
        yield letters


def _roles(queue: Queue | None) -> Sequence[QueueRole]:
    from shared.bus.topology import QUEUES

    return [role for role in QUEUES if queue is None or role == queue.value]


def _read(letters: DeadLetters, role: QueueRole, limit: int) -> Iterator[Letter]:
    with closing(letters.read(role, limit=limit)) as found:
        yield from found


def _search(letters: DeadLetters, roles: Sequence[QueueRole], ids: Sequence[Id]) -> Iterator[Letter]:
    """Find the letters whose ids begin with given digits; copies have the same id, and are all found.

    Raises:
        NoSuchLetter: None has one of the ids among the first `SEARCHED` of each queue.
        BadParameter: Letters with different ids begin with one of them.
    """
    matched: dict[Id, UUID] = {}
    for role in roles:
        for each in _read(letters, role, SEARCHED):
            named = [wanted for wanted in ids if str(each.id).startswith(wanted)]
            if any(matched.setdefault(wanted, each.id) != each.id for wanted in named):
                raise typer.BadParameter(f"several dead letters begin with {named[0]}; write more of its digits")
            if named:
                yield each
    if missing := [each for each in ids if each not in matched]:
        raise NoSuchLetter(
            f"No dead letter has the id {missing[0]}, among the first {SEARCHED} of each queue; `trim dead-letters"
            " list` shows them."
        )


def _describe(letter: Letter) -> dict[str, Any]:
    return {
        "id": str(letter.id),
        "queue": str(letter.role),
        "reason": letter.reason.value,
        "detail": letter.detail,
        "at": letter.at and letter.at.isoformat(),
        "kind": letter.kind,
        "problem_id": letter.problem_id and str(letter.problem_id),
        "bytes": len(letter.body),
    }


def _headers(letter: Letter) -> Any:
    return json.loads(json.dumps(dict(letter.headers), default=str))


def _content(letter: Letter, *, texts: bool) -> Any:
    from shared.bus.dead_letters import redacted

    if letter.value is not None:
        return letter.value if texts else redacted(letter.value)
    if not texts:
        return f"({len(letter.body)} bytes that are not JSON; --texts shows them)"
    return printable(letter.body.decode("utf-8", "backslashreplace"))


def _print_row(each: dict[str, Any]) -> None:
    at = (each["at"] or "unknown time")[:16].replace("T", " ")
    columns = (
        each["id"][:SHORT],
        f"{each['queue']:6}",
        f"{each['reason']:14}",
        f"{at:16}",
        f"{each['kind'] or '?':15}",
    )
    print("  ".join((*columns, decimal(each["bytes"]))))
    problem = f"problem {each['problem_id']}" if each["problem_id"] else "no problem"
    detail = f": {printable(each['detail'])}" if each["detail"] else ""
    print(hanging(" " * (SHORT + 2), problem + detail, indent=SHORT + 2))
