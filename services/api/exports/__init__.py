"""Exports of problems: their formats, and the stream in which a client gets them."""
