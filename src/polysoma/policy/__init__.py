"""The policy, its checkpoints, and the agents that act with it."""
