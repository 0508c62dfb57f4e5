"""The training of the bundled models: `python -m recipe.train`, from scratch, on a CPU, in PyTorch.

The stages can resume after an interruption; see `recipe.train.__main__`.
"""
