"""Tokenizers, trunk, heads, the policy and the agents that act with it."""
