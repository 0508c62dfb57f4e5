"""The state machine of a problem: `apply(state, event)` and `next_commands(state)`. No I/O, no clock, no randomness.

state < booking < ending < requesting < deciding < hearing < transitions; commands reads the state alone.
"""
