"""The embedded engine: small models on ONNX Runtime, in this process, with batching and a prefix cache."""
