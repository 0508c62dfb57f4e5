"""What the service returns, as values. Fields and values that a later service adds break nothing."""
