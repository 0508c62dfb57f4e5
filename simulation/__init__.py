"""The service in memory: the real workers and the real orchestrator on a simulated clock, bus and store.

Tests disturb it, the benchmark takes its speed as the ideal, and the offline evaluation runs policies on it.
"""
