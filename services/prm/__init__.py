"""The PRM worker: scores drafts with a process reward model."""
