"""The generator: writes steps with the small or the large model. Deployed twice, by role."""
