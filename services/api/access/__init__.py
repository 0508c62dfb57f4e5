"""Who may use the API: keys, scopes, tenants and their limits."""
