"""The settings of every process: read once from the environment (prefix `TRIM_`), immutable from then on."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from shared.errors import PermanentError

MODELS = Path(__file__).resolve().parent.parent / "models"
"""Where the bundled models lie."""


class MissingSetting(PermanentError):
    """A setting that this process needs is not set."""

    code = "missing_setting"


class UnusableSetting(PermanentError):
    """A setting asks for something that cannot be had."""

    code = "unusable_setting"


# What validators say never quotes the value: it may hold a password.


def _base_url(value: str) -> str:
    if not value:
        return value
    try:
        parts = urlsplit(value)
        has_host, _ = bool(parts.hostname), parts.port
    except ValueError:
        raise ValueError("it is no URL") from None
    if parts.scheme not in ("http", "https") or not has_host:
        raise ValueError("it must look like http://127.0.0.1:8000/v1")
    if "@" in parts.netloc:
        raise ValueError("it must hold no credentials; set TRIM_OPENAI_API_KEY")
    if parts.query or parts.fragment or any(character.isspace() for character in value):
        raise ValueError("it must hold no query, no fragment and no white space")
    return value.rstrip("/")


def _api_key(value: SecretStr) -> SecretStr:
    key = value.get_secret_value().strip()
    if not all("!" <= character <= "~" for character in key):
        raise ValueError("an API key has only visible ASCII characters")
    return SecretStr(key)


def _json(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise ValueError("it is no JSON object") from None


def _template(value: str) -> str:
    if "{question}" not in value:
        raise ValueError("{question} must be in it")
    return value


BaseUrl = Annotated[str, AfterValidator(_base_url)]
EngineArguments = Annotated[dict[str, Any], NoDecode, BeforeValidator(_json)]
Template = Annotated[str, AfterValidator(_template)]


class Settings(BaseSettings):
    """Everything that can be set. Each field is read from `TRIM_` plus its name in upper case."""

    model_config = SettingsConfigDict(env_prefix="TRIM_", frozen=True, extra="ignore")

    # Servers
    database_url: SecretStr | None = Field(
        None, description="Postgres, as `postgresql://user:password@host:port/database`."
    )
    broker_url: SecretStr | None = Field(
        None,
        description="Message broker: `amqp://...` for RabbitMQ, `pgmq://...` for queues in Postgres. "
        "Empty with `make run` and `make serve` means pgmq on the same Postgres.",
    )
    queue_prefix: Annotated[str, Field(pattern=r"^[a-z0-9_]{1,32}$")] = Field(
        "trim", description="Begins the names of all queues; deployments on one broker need different ones."
    )
    node_name: str = Field(
        default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}",
        description="Name of this process in the decision record; unique among running processes.",
    )

    ends_with_parent: bool = Field(
        default=False, description="Stop when standard input closes: set by the process that starts the whole stack."
    )

    # API
    api_host: str = Field("127.0.0.1", description="Address that the API listens on.")
    api_port: Annotated[int, Field(ge=0, le=65535)] = Field(8080, description="Port of the API; 0 picks a free one.")
    max_body_bytes: int = Field(4_194_304, description="Largest request body that the API reads.")
    max_question_chars: int = Field(20_000, description="Longest question that the API accepts.")
    max_batch_size: int = Field(1_000, description="Most problems in one submission.")

    # Orchestrator
    window: Annotated[int, Field(ge=1)] = Field(
        128, description="Problems that run at a time; the others wait in the database."
    )
    batch_events: Annotated[int, Field(ge=1)] = Field(64, description="Most events in one transaction.")
    sweep_interval_s: Annotated[float, Field(gt=0)] = Field(
        1.0, description="Seconds between looks for queued, overdue and cancelled problems."
    )

    # Workers
    concurrency: Annotated[int, Field(ge=1, le=1024)] = Field(
        32, description="Commands that one worker process has in its engine at a time."
    )
    stop_grace_s: Annotated[float, Field(ge=0)] = Field(
        20.0, description="Seconds that a worker may finish its work in after SIGTERM before it gives it back."
    )
    heartbeat_s: Annotated[float, Field(gt=0)] = Field(
        5.0, description="Seconds between two signs of life of a process."
    )
    visibility_timeout_s: Annotated[int, Field(ge=1)] = Field(
        300,
        description="pgmq only: seconds until a message that was taken and not settled is delivered again, be it "
        "because its process died. More than the longest command may take, or its work is done twice.",
    )

    # Engines
    engine: Literal["embedded", "vllm", "openai", "scripted"] = Field(
        "embedded",
        description="`embedded`: ONNX Runtime on the CPU. `vllm`: vLLM in the worker's process. `openai`: servers with "
        "OpenAI's HTTP API, vLLM's among them. `scripted`: given steps, for tests and benchmarks.",
    )
    small_model: str = Field(
        str(MODELS / "small"),
        description="Folder of the small model; `vllm`: or its name on the hub; `openai`: its name there.",
    )
    large_model: str = Field(str(MODELS / "large"), description="Folder or name of the large model.")
    prm_model: str = Field(str(MODELS / "prm"), description="Folder or name of the process reward model.")
    small_url: BaseUrl | None = Field(
        None, description="`openai`: base URL of the small model's server, as `http://host:port/v1`."
    )
    large_url: BaseUrl | None = Field(
        None, description="`openai`: base URL of the large model's server, as `http://host:port/v1`."
    )
    prm_url: BaseUrl | None = Field(
        None,
        description="`openai`: base URL of the PRM's server, as `http://host:port/v1`: vLLM, started as docs/models.md "
        "says for the PRM's format.",
    )
    openai_api_key: Annotated[SecretStr, AfterValidator(_api_key)] | None = Field(
        None, description="`openai`: sent to the servers of all roles that the process talks to."
    )
    prompt_style: Literal["completions", "chat", "chat-next-step"] = Field(
        "completions",
        description="`vllm`, `openai`: how a model is asked for a step. `completions`: to go on with raw text. `chat`: "
        "to go on with its message, in its chat template (of servers, vLLM and SGLang can). `chat-next-step`: in "
        "words, for hosted chat models (`openai` only); a solution ends with its box, and `top_k` is not sent.",
    )
    prompt: Template = Field(
        "Problem: {question}\n\n", description="What the steps follow, with the style `completions`."
    )
    prm_format: Literal["bundled", "qwen", "skywork", "math-shepherd", "rlhflow"] = Field(
        "bundled",
        description="`vllm`, `openai`: how the PRM is asked and its answer read; docs/models.md says which format is "
        "for which models. `bundled`, `qwen`, `skywork`, `math-shepherd` or `rlhflow`.",
    )
    vllm_args: EngineArguments = Field(
        {},
        description="`vllm`: arguments of the engine as a JSON object, by the names of vLLM's `AsyncEngineArgs`, such "
        'as `{"tensor_parallel_size": 2, "max_model_len": 8192}`.',
    )
    engine_threads: Annotated[int, Field(ge=1)] = Field(1, description="CPU threads of an embedded engine.")
    script: str | None = Field(None, description="JSON file of the scripted engine.")

    # Logs
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe messages that are logged; questions and steps appear at `debug` only."
    )
    log_format: Literal["console", "json"] = Field("console", description="Lines for people or for machines.")

    def require_database_url(self) -> str:
        """Return the database's URL.

        Raises:
            MissingSetting: It is not set.
        """
        return _required(self.database_url, "TRIM_DATABASE_URL", "postgresql://user:password@host:5432/trim")

    def require_broker_url(self) -> str:
        """Return the broker's URL.

        Raises:
            MissingSetting: It is not set.
        """
        return _required(self.broker_url, "TRIM_BROKER_URL", "amqp://user:password@host:5672/trim")


def _required(value: SecretStr | None, name: str, example: str) -> str:
    if value is None or not value.get_secret_value():
        raise MissingSetting(f"{name} is not set; set it to something like {example}.")
    return value.get_secret_value()
