"""Engines that write and score steps: one port (`port.py`), one adapter a module."""
