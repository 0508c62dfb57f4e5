"""The pure core: values and the state machine of a problem. No I/O, no clock, no randomness."""
