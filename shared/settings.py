"""Settings of every process: read once from the environment (prefix `TRIM_`), then immutable."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from shared.domain.options import Bridging
from shared.errors import PermanentError
from shared.setting_files import read_setting_files
from shared.setting_names import check_setting_names
from shared.setting_types import (
    JSON_BYTES_PER_CHAR,
    MAX_QUESTION_CHARS,
    OTHER_FIELDS_BYTES,
    ApiKey,
    BaseUrl,
    Count,
    EngineArguments,
    Name,
    OptionalCount,
    PositiveSeconds,
    ServerParameters,
    SigningKeys,
    Template,
    ThinkingMode,
    holds_one_question,
    receiver_url,
)

MODELS = Path(__file__).resolve().parent.parent / "models"
"""Folder of the bundled models."""


class MissingSetting(PermanentError):
    """A setting that this process needs is not set."""

    code = "missing_setting"


class UnusableSetting(PermanentError):
    """A setting has a value that this process cannot use."""

    code = "unusable_setting"


SETTINGS_TITLE = "settings of a process"
"""Title by which an error of validation names the settings; other models have errors of the same type."""


class Settings(BaseSettings):
    """All settings. Each field is read from `TRIM_` plus its name in upper case, or from a file (`_FILE`)."""

    model_config = SettingsConfigDict(
        env_prefix="TRIM_", frozen=True, extra="ignore", allow_inf_nan=False, title=SETTINGS_TITLE
    )

    # Servers
    database_url: SecretStr | None = Field(
        None, description="Postgres URL, as `postgresql://user:password@host:port/database`."
    )
    broker_url: SecretStr | None = Field(
        None,
        description="Message broker URL: `amqp://...` for RabbitMQ, `pgmq://...` for queues in Postgres. "
        "If it is not set, `make run` and `make serve` use pgmq on the same Postgres.",
    )
    queue_prefix: Annotated[str, Field(pattern=r"^[a-z0-9_]{1,32}$")] = Field(
        "trim", description="Prefix of all queue names; deployments that share a broker need different prefixes."
    )
    message_keys: SigningKeys = Field(
        None,
        description="Keys that sign messages between the roles, as `name:secret`, separated by commas; a secret has at "
        "least 32 characters (docs/operations/signed-messages.md).",
    )
    node_name: Name = Field(
        default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}",
        description="Name of this process in the record of steps and decisions; unique among running processes.",
    )
    ends_with_parent: bool = Field(
        default=False,
        description="Whether the process stops when its standard input closes. `make run` and `make serve` set it "
        "for the processes that they start.",
    )

    # API
    api_host: Name = Field("127.0.0.1", description="Address that the API listens on.")
    api_port: Annotated[int, Field(ge=0, le=65535)] = Field(
        8080, description="Port that the API listens on; 0 picks a free one."
    )
    api_keys: Literal["local", "required", "none"] = Field(
        "local",
        description="Which requests need a key. `local`: none, and the API listens on the loopback alone (127.0.0.1, "
        "::1, localhost). `required`: all but those for `/health` and `/openapi.json`. `none`: none, wherever the API "
        "listens. A key that a request presents is always checked.",
    )
    tenant_requests_per_minute: OptionalCount = Field(
        None, description="Maximum number of requests with keys in a minute, for each tenant without another limit."
    )
    tenant_max_queued: OptionalCount = Field(
        None, description="Maximum number of queued problems, for the same tenants; the API refuses further ones."
    )
    api_root_path: Annotated[str, Field(pattern=r"^(/[A-Za-z0-9._~-]+)*$")] = Field(
        "",
        description="Path under which a proxy serves the API, such as `/trim`. The proxy strips it, and links begin "
        "with it.",
    )
    api_keep_alive_s: Count = Field(
        75,
        description="Seconds that the API keeps an idle connection. Keep it longer than the idle time-out of every "
        "proxy before the API (nginx: `keepalive_timeout` of the upstream); otherwise the proxy sends requests into "
        "connections that are just being closed, and answers 502.",
    )
    api_request_timeout_s: PositiveSeconds = Field(
        30.0,
        description="Seconds that a client may take to send the header of a request, and again its body; each 1000 "
        "bytes of the body add a second. The connection is then closed, after a body with status 408.",
    )
    max_question_chars: Annotated[int, Field(ge=1, le=MAX_QUESTION_CHARS)] = Field(
        20_000, description=f"Maximum length of a question, in characters; at most {MAX_QUESTION_CHARS}."
    )
    max_body_bytes: Annotated[int, Field(ge=1), AfterValidator(holds_one_question)] = Field(
        4_194_304,
        description="Maximum size of a request body, in bytes; at least "
        f"{JSON_BYTES_PER_CHAR} * `TRIM_MAX_QUESTION_CHARS` + {OTHER_FIELDS_BYTES}, so that it holds one question.",
    )
    max_batch_size: Count = Field(1_000, description="Maximum number of problems in a batch that is one JSON document.")
    max_stream_lines: Count = Field(100_000, description="Maximum number of problems in a batch that is JSON Lines.")
    max_stream_bytes: Count = Field(
        134_217_728,
        description="Maximum size of a body of JSON Lines, in bytes. Each line may have `TRIM_MAX_BODY_BYTES`. Until "
        "the last one arrives, the api keeps the problems compressed in its folder for temporary files.",
    )
    when_prm_away: Literal["wait", "escalate", "accept"] = Field(
        "wait",
        description="What problems do while no PRM worker is fit: `wait`; `escalate` steps without a draft; or "
        "`accept` drafts without a score. Problems may choose for themselves.",
    )
    when_large_away: Literal["wait", "accept", "fail"] = Field(
        "wait",
        description="What problems do that need the large model while no worker of it is fit: `wait`; `accept` drafts "
        "in place of escalations; or `fail`. Problems may choose for themselves.",
    )
    when_small_away: Literal["wait", "large-only"] = Field(
        "wait",
        description="What problems do while no worker of the small model is fit: `wait`; or `large-only`, so that the "
        "large model writes the steps. Problems may choose for themselves.",
    )
    away_patience_s: Annotated[float, Field(ge=0)] = Field(
        Bridging().away_patience_s,
        description="Seconds that a role is away before a problem does what the three settings above say. Problems "
        "may choose for themselves.",
    )

    # Orchestrator
    window: Count = Field(
        128, description="Maximum number of problems that run at the same time; the others wait in the database."
    )
    tenant_max_running: OptionalCount = Field(
        None, description="Maximum number of problems that run at the same time, for each tenant without another limit."
    )
    batch_events: Count = Field(64, description="Maximum number of events that one transaction applies.")
    shadow_time_ms: Annotated[float, Field(gt=0)] = Field(
        5.0,
        description="Milliseconds of processor time that the shadows of one decision may take; the others are recorded "
        "as skipped.",
    )
    sweep_interval_s: PositiveSeconds = Field(
        1.0, description="Seconds between two sweeps for queued, overdue, expired and cancelled problems."
    )

    # Workers
    concurrency: Annotated[int, Field(ge=1, le=1024)] = Field(
        32, description="Maximum number of commands that a worker process runs at the same time."
    )
    stop_grace_s: Annotated[float, Field(ge=0)] = Field(
        20.0, description="Seconds that a worker has to finish its commands after SIGTERM before it returns them."
    )
    stall_s: PositiveSeconds = Field(
        60.0,
        description="Seconds without a token or a finished call, while commands run, after which a worker probes its "
        "engine: if the probe fails too, it takes no commands until a probe succeeds, or ends if the engine runs in "
        "its process.",
    )
    stretch_s: Annotated[float, Field(gt=0, le=1200)] = Field(
        240.0,
        description="Seconds after which a generator begins no further step of a command: the rest is requested again; "
        "at most 1200. Keep it and the longest `step_timeout_s` together below RabbitMQ's `consumer_timeout` "
        "(30 minutes by default), and below `TRIM_VISIBILITY_TIMEOUT_S` with pgmq.",
    )
    heartbeat_s: PositiveSeconds = Field(5.0, description="Seconds between two heartbeats of a process.")
    visibility_timeout_s: Count = Field(
        300,
        description="Seconds before an unacknowledged message is redelivered, for example after a crash. Keep it "
        "longer than the longest command, whose work is otherwise done twice. pgmq only.",
    )

    # Engines
    engine: Literal["embedded", "vllm", "openai", "scripted"] = Field(
        "embedded",
        description="Engine that runs the models. `embedded`: ONNX Runtime on the CPU. `vllm`: vLLM in the worker "
        "process. `openai`: servers with OpenAI's HTTP API, such as vLLM's. `scripted`: prepared steps, for tests and "
        "benchmarks.",
    )
    small_model: Name = Field(
        str(MODELS / "small"),
        description="Folder of the small model; with `vllm`, also its name on the Hugging Face hub; with `openai`, its "
        "name on the server.",
    )
    large_model: Name = Field(
        str(MODELS / "large"), description="Folder or name of the large model, as for the small model."
    )
    prm_model: Name = Field(
        str(MODELS / "prm"), description="Folder or name of the process reward model, as for the small model."
    )
    small_url: BaseUrl | None = Field(
        None, description="Base URL of the small model's server, as `http://host:port/v1`. `openai` only."
    )
    large_url: BaseUrl | None = Field(
        None, description="Base URL of the large model's server, as `http://host:port/v1`. `openai` only."
    )
    prm_url: BaseUrl | None = Field(
        None,
        description="Base URL of the PRM's server, as `http://host:port/v1`. `openai` only. The server is vLLM, "
        "started with the arguments that docs/models.md lists for the PRM's format.",
    )
    openai_api_key: ApiKey | None = Field(
        None, description="API key that the process sends to its model servers. `openai` only."
    )
    small_parameters: ServerParameters | None = Field(
        None,
        description="JSON object with changes to the parameters of requests to the small model's server: `rename` (new "
        "names), `drop` (names that are not sent) and `fix` (values), such as "
        '`{"rename": {"max_tokens": "max_completion_tokens"}, "drop": ["top_k"], "fix": {"temperature": 1}}`. '
        "`openai` only.",
    )
    large_parameters: ServerParameters | None = Field(
        None, description="The same for the large model's server. `openai` only."
    )
    prm_parameters: ServerParameters | None = Field(None, description="The same for the PRM's server. `openai` only.")
    small_thinking: ThinkingMode = Field(
        None,
        description="Whether the small model thinks aloud, with a chat template that knows of thinking. `off`: the "
        "template asks it not to, and what it thinks all the same is no step. `steps`: each paragraph that it thinks "
        "is a step, and so is the answer after them. If it is not set, the model is not asked, and what it thinks is "
        "no step. `vllm` and `openai`; `steps` needs `TRIM_PROMPT_STYLE=chat`, `off` that or `chat-next-step`.",
    )
    large_thinking: ThinkingMode = Field(
        None, description="Whether the large model thinks aloud, as for the small model: `off` or `steps`."
    )
    prompt_style: Literal["completions", "chat", "chat-next-step"] = Field(
        "completions",
        description="Form of a request for a step, with `vllm` and `openai`. `completions`: the model continues raw "
        "text. `chat`: the model continues its own message, in its chat template (among servers, vLLM and SGLang "
        "support this). `chat-next-step`: the request asks for the next step in words, for hosted chat models "
        "(`openai` only); a solution then ends with a box, the word `DONE`, or a sentence that declares it complete, "
        "and `top_k` is not sent.",
    )
    prompt: Template = Field(
        "Problem: {question}\n\n",
        description="Text that precedes the steps with the style `completions`; `{question}` is replaced. It may"
        " end in white space: the model reads it as it is before text.",
    )
    prm_format: Literal["bundled", "qwen", "skywork", "math-shepherd", "rlhflow"] = Field(
        "bundled",
        description="Format of the PRM's input and output, with `vllm` and `openai`: `bundled`, `qwen`, `skywork`, "
        "`math-shepherd` or `rlhflow`. docs/models.md lists the models of each format.",
    )
    vllm_args: EngineArguments = Field(
        {},
        description="JSON object with arguments for vLLM's `AsyncEngineArgs`, such as "
        '`{"tensor_parallel_size": 2, "max_model_len": 8192}`. `vllm` only.',
    )
    engine_threads: Count = Field(1, description="Number of CPU threads of an embedded engine.")
    script: str | None = Field(None, description="JSON file with the steps of the scripted engine.")

    # Traces
    otlp_url: Annotated[BaseUrl, AfterValidator(receiver_url)] | None = Field(
        None,
        description="Base URL of an OpenTelemetry receiver that takes traces over HTTP, as `http://host:4318`. Without "
        "it, no traces are made. Needs the extra `otel`.",
    )
    traced_share: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="Share of the problems that are traced. Give all processes the same, or traces have gaps."
    )
    trace_texts: bool = Field(
        default=False, description="Whether traces hold questions, steps and answers. The receiver then stores them."
    )

    # Logs
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Lowest level of messages that are logged; questions and steps appear only at `debug`."
    )
    log_format: Literal["console", "json"] = Field(
        "console", description="Format of log lines: `console` for people, `json` for machines."
    )

    # Observability
    metrics_host: Name = Field(
        "127.0.0.1", description="Address that `/metrics`, `/live` and `/ready` listen on; `::` is every one."
    )
    metrics_port: Annotated[int, Field(ge=0, le=65535)] | None = Field(
        None,
        description="Port of `/metrics`, `/live` and `/ready`; 0 picks a free one. If it is not set, nothing listens. "
        "With `make run` and `make serve` it is the API's, and the other roles get the ports after it.",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - neither of these two is used
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read arguments first, then variables, then files that variables name.

        Raises:
            UnknownSetting: A variable names no setting.
            UnusableSettingFile: A variable names no usable file.
        """
        check_setting_names(settings_cls)
        return init_settings, env_settings, InitSettingsSource(settings_cls, read_setting_files(settings_cls))

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
