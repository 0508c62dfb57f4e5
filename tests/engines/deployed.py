"""The engines that the suite runs on, each with a large model, a PRM, and a model that has nothing to say."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
from safetensors.numpy import save_file

from bench.vllm_on_cpu import ARGUMENTS
from recipe.problems.drawing import Split, draw
from recipe.reference import load_weights
from shared.domain.roles import Author
from shared.domain.text import STEP_TAG
from shared.engines.factory import make_generator, make_scorer
from shared.engines.port import Generator, Scorer
from shared.settings import Settings
from tests.unit.engines.bundled import MODELS

*STORIES, SLOW_STORY = islice(draw(Split.TEST), 17)
"""Problems that the large model solves; a script takes 2 s for each step of the last one."""

BLANK_QUESTION = "What is there to say?"

START_TIMEOUT_S = 240.0
PATIENCE_S = 60.0


def until(holds: Callable[[], object]) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)


@dataclass(frozen=True, kw_only=True)
class Engine:
    """One of the engines, running."""

    name: str
    large: Generator
    blank: Generator
    prm: Scorer
    large_runs: Callable[[], int]
    """Counts how often the large model was run: once for all calls that are computed together."""
    prm_runs: Callable[[], int]

    @property
    def is_real(self) -> bool:
        """Whether a model answers, not a script."""
        return self.name != "scripted"


@contextmanager
def running(name: str, folder: Path) -> Iterator[Engine]:
    """Run an engine for as long as the block does."""
    with ExitStack() as stack:
        blank = {"small_model": str(_blank_model(folder, has_graph=name == "embedded"))}
        settings: dict[str, Any] = {"engine": name}
        if name == "scripted":
            settings["script"] = str(_script(folder))
        elif name == "vllm":
            settings["vllm_args"] = dict(ARGUMENTS)
        elif name == "openai":
            settings |= stack.enter_context(_servers(folder, Path(blank["small_model"])))
        configured = Settings(**{**blank, **settings})
        large = stack.enter_context(closing(make_generator(configured, Author.LARGE)))
        prm = stack.enter_context(closing(make_scorer(configured)))
        yield Engine(
            name=name,
            large=large,
            blank=stack.enter_context(closing(make_generator(configured, Author.SMALL))),
            prm=prm,
            large_runs=_runs_of(large, name, configured.large_url),
            prm_runs=_runs_of(prm, name, configured.prm_url),
        )


def _runs_of(part: Any, name: str, url: str | None) -> Callable[[], int]:
    if name == "embedded":
        return lambda: int(part._model.runs)
    if name == "vllm":
        return _count_answers(part._model._engine.output_processor)
    return partial(_served_runs, f"{url}".removesuffix("/v1") + "/metrics")


def _count_answers(processor: Any) -> Callable[[], int]:
    """Count how often vLLM's engine answers: after each run of the model, for all requests in it."""
    process = processor.process_outputs
    runs = 0

    def processed(outputs: Sequence[object], *arguments: Any, **named: Any) -> object:
        nonlocal runs
        runs += 1
        return process(outputs, *arguments, **named)

    processor.process_outputs = processed
    return lambda: runs


def _served_runs(url: str) -> int:
    """Read from a server of vLLM how often its model was run."""
    lines = httpx2.get(url).text.splitlines()
    return int(sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:iteration_tokens_total_count")))


def _script(folder: Path) -> Path:
    """Write a script of the right solutions, with steps that take a moment."""
    problems: dict[str, Any] = {
        story.question: [
            {"small": "?", "large": step, "large_ms": 50, "score": 0.1, "mean_logprob": -0.1, "min_logprob": -0.5}
            for step in story.steps
        ]
        for story in STORIES
    }
    problems[SLOW_STORY.question] = [{"small": "?", "large": step, "large_ms": 2_000} for step in SLOW_STORY.steps]
    problems[BLANK_QUESTION] = [{"small": " - "}]
    path = folder / "script.json"
    path.write_text(json.dumps({"problems": problems}))
    return path


def _blank_model(folder: Path, *, has_graph: bool) -> Path:
    """Make a model that writes a blank line after any text."""
    blank = folder / "blank"
    shutil.copytree(MODELS / "small", blank, dirs_exist_ok=True)
    config = json.loads((blank / "config.json").read_text()) | {"tie_word_embeddings": False}
    (blank / "config.json").write_text(json.dumps(config))
    weights = load_weights(blank / "model.safetensors")
    for name, weight in weights.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            weights[name] = np.zeros_like(weight)  # layers add nothing to the embeddings, which are all the same
        if name in ("model.embed_tokens.weight", "model.norm.weight"):
            weights[name] = np.ones_like(weight)
    vocabulary = json.loads((blank / "tokenizer.json").read_text())["model"]["vocab"]
    head = np.zeros_like(weights["model.embed_tokens.weight"])
    head[vocabulary["ĊĊ"]] = 1
    save_file({**weights, "lm_head.weight": head}, blank / "model.safetensors")
    (blank / "model.onnx").unlink()
    if has_graph:
        from recipe.export import export

        export(blank)
    return blank


@contextmanager
def _servers(folder: Path, blank: Path) -> Iterator[Mapping[str, str]]:
    """Serve the models with vLLM's own server; yield the settings that name them."""
    tag = json.loads((MODELS / "prm" / "tokenizer.json").read_text())
    (step_tag_id,) = (each["id"] for each in tag["added_tokens"] if each["content"] == STEP_TAG)
    pooler = {"task": "token_classify", "tok_pooling_type": "STEP", "step_tag_id": step_tag_id}
    started = []
    try:
        for role, model, options in (
            ("small", blank, ()),
            ("large", MODELS / "large", ()),
            ("prm", MODELS / "prm", ("--runner", "pooling", "--pooler-config", json.dumps(pooler))),
        ):
            started.append((role, *start_server(role, model, folder / f"{role}.log", options)))
        for role, process, url, log in started:
            wait_until_up(role, process, url, log)
        yield {
            key: value
            for role, _, url, _ in started
            for key, value in ((f"{role}_model", role), (f"{role}_url", f"{url}/v1"))
        }
    finally:
        stop_servers([process for _, process, _, _ in started])


def stop_servers(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Stop servers, all at the same time."""
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def start_server(
    role: str, model: Path, log: Path, options: Sequence[str]
) -> tuple[subprocess.Popen[bytes], str, Path]:
    """Start vLLM's server of a model under the name of a role; return its process, its URL and its log."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = [
        f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}") for name, value in ARGUMENTS.items()
    ]
    command = ["-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--served-model-name", role]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, *command, "--host", "127.0.0.1", "--port", str(port), *arguments, *options],
            stdout=out,
            stderr=out,
        )
    return process, f"http://127.0.0.1:{port}", log


def wait_until_up(role: str, process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Wait until a server answers."""
    until = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < until:
        if process.poll() is not None:
            break
        try:
            if httpx2.get(f"{url}/health").is_success:
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.2)
    raise AssertionError(f"vLLM's server of the {role} model does not run: {log.read_text()[-3000:]}")
