"""Values by noun (steps, drafts, decisions, ledger, status, ...) and the rules for a solution's text. All pure."""
