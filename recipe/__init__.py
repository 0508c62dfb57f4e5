"""How the bundled models are made and measured: problems with known answers, training, export. Not in the wheel."""
