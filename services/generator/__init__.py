"""The generator: writes steps with the small or the large model. Deployed once for each author."""
