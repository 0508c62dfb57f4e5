"""Code that the processes share: values, messages, state machine, policies, adapters to database, broker and models."""
