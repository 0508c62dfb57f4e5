"""The problems that the bundled models are made for: drawn by seed, parsed and checked exactly.

Pure Python: nothing here knows a model.
"""
