"""How a policy learns: one method, one file."""
