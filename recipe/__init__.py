"""How the bundled models are made: problems that know their answer, training, export. Not in the wheel."""
