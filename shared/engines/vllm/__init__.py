"""Models in this process's own vLLM engine: continuous batching of all task threads' calls, with a prefix cache."""
