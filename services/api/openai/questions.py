"""Turns a request for a chat completion into a problem.

A problem is one question. Nothing behind the api has a place for a conversation: commands carry a question and steps,
prompts for small models are raw text, and a PRM scores steps after a question.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from pydantic import ValidationError

from services.api.errors import InvalidSubmission
from services.api.openai.errors import UnknownModel, UnknownParameter, UnsupportedValue, WrongParameter, param_of
from services.api.openai.names import DEFAULT, read_name
from services.api.openai.requests import ChatMessage, ChatRequest, TrimChoices
from services.api.schemas.submissions import PolicyChoice, ProblemRequest
from services.api.submitting import Checked, check_problem
from shared.domain.options import Limits
from shared.domain.text import SEPARATOR
from shared.errors import PermanentError
from shared.settings import Settings

_INSTRUCTING: Final = ("system", "developer")

_STEP_TOKENS: Final = Limits().max_step_tokens


def check_chat(body: ChatRequest, settings: Settings) -> Checked:
    """Check what the schema cannot, and turn a request into a submission.

    Raises:
        UnknownModel: There is no such model.
        WrongParameter: A parameter is wrong; the error names it.
    """
    trim = body.trim or TrimChoices()
    choices = trim.model_dump(exclude_unset=True, exclude={"wrappers"})
    choices |= {
        "question": read_question(body.messages),
        "sampling": _sampling(body, choices.get("sampling", {})),
        "limits": _limits(body, choices.get("limits", {})),
    }
    if trim.split is None:
        choices["policy"] = _policy(body.model, trim).model_dump(exclude_unset=True)
    elif body.model != DEFAULT or trim.wrappers is not None:
        raise WrongParameter("trim.split", f"A split names its policies: send the model `{DEFAULT}`, and no wrappers.")
    try:
        return check_problem(ProblemRequest.model_validate(choices), settings)
    except ValidationError as error:  # The question: nothing else is new here.
        raise WrongParameter("messages", f"{error.errors()[0]['msg']}.") from error
    except InvalidSubmission as error:
        raise refused(error, body, field=error.field) from error


def refused(error: PermanentError, body: ChatRequest, *, field: str = "body.policy") -> PermanentError:
    """Return the error about a submission as one about the request that it was made from.

    Args:
        error: The error.
        body: The request.
        field: Place in the submission.
    """
    message = error.message if isinstance(error, InvalidSubmission) else str(error)
    place = field.removeprefix("body.")
    if place == "question":
        return WrongParameter("messages", message)
    if place.split(".")[0] == "policy" and (body.trim is None or "policy" not in body.trim.model_fields_set):
        if "wrappers" in (body.trim.model_fields_set if body.trim else ()):
            return WrongParameter("trim.wrappers", message)
        return UnknownModel(message)
    return WrongParameter(param_of(f"trim.{place}"), message, code=error.code)


def read_question(messages: Sequence[ChatMessage]) -> str:
    """Return the question: the texts of the system's messages and of the user's one, with blank lines between them.

    Raises:
        UnsupportedValue: There are earlier turns, or a message comes after the question.
        UnknownParameter: A message has a field that this service does not know.
    """
    for place, message in enumerate(messages):
        where, is_last = f"messages[{place}]", place == len(messages) - 1
        if message.role not in (*_INSTRUCTING, "user"):
            raise UnsupportedValue(
                f"{where}.role",
                f"The models solve one question, and have no place for a message of the role `{message.role}`; send the"
                " question alone, with what it needs of the earlier turns in its text.",
            )
        if message.role == "user" and not is_last:
            raise UnsupportedValue(
                f"{where}.role", "The models solve one question; send one message of the user, as the last one."
            )
        if is_last and message.role != "user":
            raise UnsupportedValue(f"{where}.role", "The last message has to be the user's: it is the question.")
        if unknown := next((name for name, value in (message.model_extra or {}).items() if value is not None), None):
            raise UnknownParameter(f"{where}.{unknown[:40]}", f"A message has no field `{unknown[:40]}`; omit it.")
        if is_last and not (message.content or "").strip():
            raise WrongParameter(f"{where}.content", "The question is blank; send a text.")
    *before, question = [message.content or "" for message in messages]
    return SEPARATOR.join([*(text.strip() for text in before if text.strip()), question])


def _policy(model: str, trim: TrimChoices) -> PolicyChoice:
    """Return the policy that the model names, or the one that the request names by itself.

    Raises:
        UnknownModel: There is no such model.
        WrongParameter: The request names two policies, or wrappers twice.
    """
    named = read_name(model)
    if "policy" not in trim.model_fields_set:
        return named if trim.wrappers is None else named.model_copy(update={"wrappers": trim.wrappers})
    if model != DEFAULT:
        raise WrongParameter("trim.policy", f"The model `{model}` names a policy already; send the model `{DEFAULT}`.")
    if trim.wrappers is not None:
        raise WrongParameter("trim.wrappers", "Send the wrappers within `trim.policy`.")
    return trim.policy


def _sampling(body: ChatRequest, chosen: dict[str, Any]) -> dict[str, Any]:
    """Return how tokens are sampled, which OpenAI's parameters and this service's choose together.

    Raises:
        WrongParameter: Both choose the same.
    """
    given = {"temperature": body.temperature, "top_p": body.top_p, "seed": body.seed}
    named = {name: value for name, value in given.items() if value is not None}
    if twice := next((name for name in named if name in chosen), None):
        raise WrongParameter(f"trim.sampling.{twice}", f"`{twice}` is chosen twice; omit one of the two.")
    return {**chosen, **named}


def _limits(body: ChatRequest, chosen: dict[str, Any]) -> dict[str, Any]:
    """Return the bounds of the work. No step is longer than the whole solution may be.

    Raises:
        WrongParameter: The number of tokens is chosen twice.
    """
    named = [each for each in (body.max_completion_tokens, body.max_tokens) if each is not None]
    if not named:
        return chosen
    if len(set(named)) > 1:
        raise WrongParameter("max_tokens", "`max_tokens` and `max_completion_tokens` differ; omit one of the two.")
    if "max_tokens" in chosen:
        raise WrongParameter("trim.limits.max_tokens", "The number of tokens is chosen twice; omit one of the two.")
    return {"max_step_tokens": min(_STEP_TOKENS, named[0]), **chosen, "max_tokens": named[0]}
