"""The weights of the bundled models, their model card and the sample problems. No code."""
