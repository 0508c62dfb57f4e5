"""The bundled models, and what made them ready to serve."""
