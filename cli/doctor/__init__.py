"""`trim doctor`: what is wrong with a service, and what mends it."""
