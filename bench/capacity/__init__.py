"""Capacity: how many workers, orchestrators, and how large a broker and a database a number of small GPUs needs."""
