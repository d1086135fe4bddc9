"""The reference interpreter: numpy semantics for every op of every level."""
