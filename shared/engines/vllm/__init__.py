"""The vllm engine: models on vLLM in this process, with continuous batching of all calls and a prefix cache."""
