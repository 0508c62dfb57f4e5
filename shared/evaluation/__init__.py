"""What a policy is worth: how much of the gap between two models it closes, and for how many of the large one's tokens.

Arithmetic on results: no I/O, no clock, and the same seed gives the same interval.
"""
