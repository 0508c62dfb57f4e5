"""The problems that the bundled models solve: drawn by seed, parsed and checked exactly. Independent of any model."""
