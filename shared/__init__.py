"""What the services share: the contract, the pure core, and the adapters to database, broker and engines."""
