"""The official client of OpenAI, unmodified, against the running service."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai.types import Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from chaos.deployment import Deployment, deployed
from chaos.proxy import Proxy
from stack.scratch import scratch_database

pytestmark = pytest.mark.servers

QUESTION = "What is 6 times 7?"
SOLUTION = [
    {"small": "First, write it down.", "score": 0.9},
    {"small": "6 times 7 is 36.", "large": "6 times 7 is 42.", "score": 0.2},
    {"small": "The answer is \\boxed{42}.", "score": 0.9},
]
TEXT = "First, write it down.\n\n6 times 7 is 42.\n\nThe answer is \\boxed{42}."
SCRIPT = {
    "default": SOLUTION,
    "problems": {
        "Slow?": [{"small": f"Step {index}.", "score": 0.9, "small_ms": 1000} for index in range(30)],
        "Retried?": [{"small": "Step.", "score": 0.9, "small_ms": 1500}, SOLUTION[-1]],
        "Nothing?": [{"small": ""}],
        "Long?": [{"small": f"Step {index}.", "score": 0.9} for index in range(10)],
    },
}


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory, postgres_server: str) -> Iterator[Deployment]:
    with scratch_database(postgres_server) as url:
        broker = url.replace("postgresql", "pgmq", 1)
        folder: Path = tmp_path_factory.mktemp("openai")
        with deployed(folder, database_url=url, broker_url=broker, script=SCRIPT) as running:
            yield running


@pytest.fixture(scope="module")
def client(deployment: Deployment) -> Iterator[openai.OpenAI]:
    with connected(deployment.api.address) as made:
        yield made


def connected(address: str, **options: Any) -> openai.OpenAI:
    http = openai.DefaultHttpxClient(trust_env=False)
    return openai.OpenAI(base_url=f"{address}/v1", api_key="none", http_client=http, **options)


def ask(client: openai.OpenAI, question: str = QUESTION, **options: Any) -> ChatCompletion:
    messages: Any = [{"role": "user", "content": question}]
    made = client.chat.completions.create(**{"model": "trim", "messages": messages, **options})
    assert isinstance(made, ChatCompletion)
    # The client itself accepts whatever comes.
    return ChatCompletion.model_validate_json(made.model_dump_json(), strict=True)


def stream(client: openai.OpenAI, question: str = QUESTION, **options: Any) -> Iterator[ChatCompletionChunk]:
    messages: Any = [{"role": "user", "content": question}]
    chunks = client.chat.completions.create(**{"model": "trim", "messages": messages, "stream": True, **options})
    for chunk in chunks:
        yield ChatCompletionChunk.model_validate_json(chunk.model_dump_json(), strict=True)


def text_of(chunks: list[ChatCompletionChunk]) -> str:
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


def extension(made: ChatCompletion | ChatCompletionChunk) -> dict[str, Any]:
    assert made.model_extra is not None
    found: dict[str, Any] = made.model_extra["trim"]
    return found


def test_models_are_listed_and_retrieved(client: openai.OpenAI) -> None:
    listed = {each.id: Model.model_validate(each.model_dump(), strict=True) for each in client.models.list()}
    assert {"trim", "trim-small", "trim-large", "trim-threshold-0.35"} <= set(listed)
    assert client.models.retrieve("trim-small") == listed["trim-small"]
    assert client.models.retrieve("trim-cascade-0.7").owned_by == "trim"
    with pytest.raises(openai.NotFoundError, match="did you mean `trim-small`") as refused:
        client.models.retrieve("trim-smal")
    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")


@pytest.mark.parametrize(
    ("model", "authors"),
    [
        ("trim", ["small", "large", "small"]),
        ("trim-threshold-0.1", ["small", "small", "small"]),
        ("trim-small", ["small", "small", "small"]),
        ("trim-large", ["large", "large", "large"]),
    ],
)
def test_a_completion_is_the_solution_of_the_policy_that_the_model_names(
    client: openai.OpenAI, deployment: Deployment, model: str, authors: list[str]
) -> None:
    made = ask(client, model=model)
    [choice] = made.choices
    solved = extension(made)
    trajectory = deployment.trajectory(solved["problem_id"])
    assert [author for _, author, _ in trajectory] == authors
    assert choice.message.content == "\n\n".join(text for _, _, text in trajectory)
    assert (made.model, made.id, choice.finish_reason) == (model, f"chatcmpl-{solved['problem_id']}", "stop")
    assert (solved["answer"], solved["verdict"], solved["stop_reason"]) == ("42", "unverified", "final_answer")
    [row] = deployment.problems([solved["problem_id"]])
    assert made.usage is not None
    assert made.usage.completion_tokens == row["small_kept"] + row["large_out"]
    assert (
        made.usage.prompt_tokens
        == row["small_in"] + row["large_in"]
        == made.usage.total_tokens - made.usage.completion_tokens
    )
    assert solved["ledger"]["small_discarded"] == row["small_discarded"]


def test_options_of_both_forms_reach_the_problem(client: openai.OpenAI, deployment: Deployment) -> None:
    made = ask(
        client,
        temperature=0,
        seed=7,
        max_completion_tokens=500,
        metadata={"run": "monday"},
        n=1,
        extra_body={
            "trim": {"reference": "42", "lookahead": 2, "wrappers": {"budget": 0}, "shadows": [{"name": "random"}]}
        },
    )
    solved = extension(made)
    [row] = deployment.problems([solved["problem_id"]])
    assert (row["options"]["sampling"]["seed"], row["options"]["lookahead"]) == (7, 2)
    assert (row["options"]["limits"]["max_tokens"], len(row["shadows"]), row["large_out"]) == (500, 1, 0)
    assert (solved["seed"], solved["verdict"], made.metadata) == (7, "correct", {"run": "monday"})


def test_a_limit_and_a_stop_string_end_the_text(client: openai.OpenAI) -> None:
    limited = ask(client, "Long?", max_tokens=7)
    [choice] = limited.choices
    assert (choice.finish_reason, choice.message.content) == ("length", "Step 0.\n\nStep 1.\n\nStep 2.")
    [choice] = ask(client, stop=["\n\n"]).choices
    assert (choice.finish_reason, choice.message.content) == ("stop", "First, write it down.")


def test_a_stream_has_the_role_then_each_step_then_the_end_and_the_usage(client: openai.OpenAI) -> None:
    chunks = list(stream(client, stream_options={"include_usage": True}))
    plain = ask(client)
    first, *steps, end, usage = chunks
    assert first.choices[0].delta.role == "assistant"
    assert [each.choices[0].delta.content for each in steps] == [
        "First, write it down.", "\n\n6 times 7 is 42.", "\n\nThe answer is \\boxed{42}.",
    ]  # fmt: skip
    assert [extension(each)["author"] for each in steps] == ["small", "large", "small"]
    assert (end.choices[0].finish_reason, extension(end)["answer"]) == ("stop", "42")
    assert (usage.choices, usage.usage, [each.usage for each in chunks[:-1]]) == ([], plain.usage, [None] * 5)
    assert text_of(chunks) == plain.choices[0].message.content == TEXT
    assert len({(each.id, each.created, each.model) for each in chunks}) == 1


def test_a_stream_helper_of_the_client_collects_the_completion(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": QUESTION}]
    with client.chat.completions.stream(model="trim", messages=messages) as events:
        final = events.get_final_completion()
    assert final.choices[0].message.content == TEXT


def test_a_stop_string_ends_a_stream_and_the_work(client: openai.OpenAI, deployment: Deployment) -> None:
    chunks = list(stream(client, "Slow?", stop="2."))
    assert text_of(chunks) == "Step 0.\n\nStep 1.\n\nStep "
    assert (chunks[-1].choices[0].finish_reason, extension(chunks[-1])["status"]) == ("stop", "cancelled")


def test_the_asynchronous_client_works_as_well(deployment: Deployment) -> None:
    async def run() -> None:
        http = openai.DefaultAsyncHttpxClient(trust_env=False)
        async with openai.AsyncOpenAI(
            base_url=f"{deployment.api.address}/v1", api_key="none", http_client=http
        ) as client:
            messages: Any = [{"role": "user", "content": QUESTION}]
            plain = await client.chat.completions.create(model="trim", messages=messages)
            assert plain.choices[0].message.content == TEXT
            chunks = [
                each
                async for each in await client.chat.completions.create(model="trim", messages=messages, stream=True)
            ]
            assert text_of(chunks) == TEXT

    asyncio.run(run())


@pytest.mark.parametrize(
    ("options", "param", "code"),
    [
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages[0].role", "unsupported_value"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
         "messages[0].content", "unsupported_value"),
        ({"n": 2}, "n", "unsupported_value"),
        ({"logprobs": True}, "logprobs", "unsupported_value"),
        ({"response_format": {"type": "json_object"}}, "response_format", "unsupported_value"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", "unsupported_value"),
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"extra_body": {"trm": {}}}, "trm", "unknown_parameter"),
        ({"extra_body": {"trim": {"policy": {"name": "dice"}}}}, "trim.policy", "unknown_policy"),
    ],
)  # fmt: skip
def test_a_bad_request_names_its_parameter(
    client: openai.OpenAI, options: dict[str, Any], param: str, code: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, **options)
    assert (refused.value.param, refused.value.code) == (param, code)
    assert refused.value.type == "invalid_request_error"


def test_a_problem_that_fails_is_an_error_that_the_client_does_not_retry(
    client: openai.OpenAI, deployment: Deployment
) -> None:
    with pytest.raises(openai.InternalServerError) as failed:
        ask(client, "Nothing?")
    assert failed.value.code == "no_output"
    assert len(deployment.rows("SELECT 1 FROM problems WHERE question = 'Nothing?'")) == 1
    with pytest.raises(openai.APIError) as broken:
        list(stream(client, "Nothing?"))
    assert broken.value.code == "no_output"


def test_a_response_that_is_lost_is_not_bought_twice(deployment: Deployment) -> None:
    """The connection breaks after the problem was solved, and once more while it is being solved."""
    question = "Lost?"
    with Proxy(deployment.api.address, lives=[0]) as proxy, connected(proxy.url, max_retries=1) as client:
        made = ask(client, question)
    found = deployment.rows("SELECT id FROM problems WHERE question = %s", question)
    assert [str(each["id"]) for each in found] == [extension(made)["problem_id"]]

    def is_running() -> bool:
        return bool(deployment.rows("SELECT 1 FROM problems WHERE question = 'Retried?'"))

    with Proxy(deployment.api.address) as proxy, connected(proxy.url, max_retries=5) as client:

        def break_it() -> None:
            deployment.until(is_running)
            proxy.cut()
            proxy.mend()

        breaking = threading.Thread(target=break_it)
        breaking.start()
        made = ask(client, "Retried?")
        breaking.join()
    [row] = deployment.rows("SELECT id, status, cancel_requested_at FROM problems WHERE question = 'Retried?'")
    assert (str(row["id"]), row["status"]) == (extension(made)["problem_id"], "succeeded")
    assert row["cancel_requested_at"] is None


def test_a_client_that_leaves_in_mid_stream_leaves_nothing_running(
    client: openai.OpenAI, deployment: Deployment
) -> None:
    chunks = client.chat.completions.create(
        model="trim", messages=[{"role": "user", "content": "Slow?"}], stream=True, user="leaves"
    )
    problem_id = next(iter(chunks)).id.removeprefix("chatcmpl-")
    began = time.monotonic()
    chunks.close()
    [row] = deployment.finish([problem_id])
    assert row["status"] == "cancelled"
    assert time.monotonic() - began < 29, "it would have gone on for as long"
    assert deployment.rows("SELECT 1 FROM idempotency_keys WHERE problem_id = %s", problem_id) == []


def test_a_raw_stream_is_made_of_events_and_ends_with_done(deployment: Deployment) -> None:
    body = {"model": "trim", "messages": [{"role": "user", "content": QUESTION}], "stream": True}
    got = httpx2.post(f"{deployment.api.address}/v1/chat/completions", json=body, trust_env=False, timeout=60)
    assert got.headers["content-type"].startswith("text/event-stream")
    assert (got.headers["cache-control"], got.headers["x-accel-buffering"]) == ("no-store", "no")
    events = got.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(each.startswith("data: {") for each in events[:-2])
    assert "usage" not in got.text.replace('"trim"', "")
