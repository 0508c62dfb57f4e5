"""The state machine of a problem: `apply(state, event)` and `next_commands(state)`. No I/O, no clock, no randomness.

state < booking < ending < requesting < deciding < absences, hearing < transitions. The modules commands and admitting
read the state alone.
"""
