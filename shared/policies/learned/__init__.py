"""Policies that a network decides, trained by reinforcement learning. `training` trains them; here they decide."""
