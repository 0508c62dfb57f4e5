"""Arguments and environment of vLLM for the bundled models on a CPU."""

from __future__ import annotations

from collections.abc import Mapping

ARGUMENTS: Mapping[str, object] = {
    "enforce_eager": True,
    "max_model_len": 1024,
    "max_num_seqs": 64,
    # The default of 128 tokens on a CPU is longer than the prefix that two calls share here.
    "block_size": 32,
    "kv_cache_memory_bytes": 128 << 20,
    "dtype": "bfloat16",
}
"""Engine arguments, as in TRIM_VLLM_ARGS."""

ENVIRONMENT: Mapping[str, str] = {
    # Models this small run slower on more threads.
    "OMP_NUM_THREADS": "1",
    # Runs the model in the engine's process; with a separate process, the engine would wait in a busy loop.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # vLLM compiles a function at the first request for log-probabilities, for 10 s on a slow core.
    "TORCHDYNAMO_DISABLE": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}
"""Environment variables that vLLM reads."""
