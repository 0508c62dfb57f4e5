"""TRIM-POMDP: plans ahead with a small model of how steps go wrong. `policy.py` has the policy."""
