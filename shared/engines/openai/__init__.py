"""The openai engine: models on servers with OpenAI's HTTP API, such as vLLM's."""
