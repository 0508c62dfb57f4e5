"""The orchestrator: the only writer of reasoning state. Any number of replicas run side by side."""
