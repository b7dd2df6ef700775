"""Rollouts: many episodes of many tasks in parallel, who drives them, and what is recorded of them."""
