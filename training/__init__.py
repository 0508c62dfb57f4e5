"""Fitting and training of policies from recorded solutions: what they learn becomes an artefact. Runs offline only."""
