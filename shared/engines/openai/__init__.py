"""The openai engine: models behind servers that speak OpenAI's HTTP API, such as vLLM."""
