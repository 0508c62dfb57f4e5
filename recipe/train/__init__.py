"""The recipe of the bundled models: `python -m recipe.train`, everything from nothing on a CPU, in PyTorch.

Stages follow each other and can be taken up again where they stopped; see `recipe.train.__main__`.
"""
