"""How the bundled models are made: problems with known answers, training, export. Not in the wheel."""
