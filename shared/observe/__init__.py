"""What operators see of a process: its metrics, whether it makes progress, and whether it is ready."""
