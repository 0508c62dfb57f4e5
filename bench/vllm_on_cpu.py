"""How vLLM is started for the bundled models."""

from __future__ import annotations

from collections.abc import Mapping

ARGUMENTS: Mapping[str, object] = {
    "enforce_eager": True,
    "max_model_len": 1024,
    "max_num_seqs": 64,
    # Its blocks of 128 tokens on a CPU are longer than what two calls have in common here.
    "block_size": 32,
    "kv_cache_memory_bytes": 128 << 20,
    "dtype": "bfloat16",
}
"""Arguments of the engine for tiny models on a CPU, as in TRIM_VLLM_ARGS."""

ENVIRONMENT: Mapping[str, str] = {
    # Models this small are slower with more threads.
    "OMP_NUM_THREADS": "1",
    # The model in the engine's process, not in one more, for which the engine would wait in a busy loop.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}
"""What vLLM reads from the environment."""
