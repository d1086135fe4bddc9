"""How long a kernel would take, what it needs, and why."""
