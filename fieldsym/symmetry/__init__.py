"""The verbs: evaluate."""
