"""Engines that write and score steps: the port (`port.py`), its adapters, and the formats of prompts and PRMs."""
