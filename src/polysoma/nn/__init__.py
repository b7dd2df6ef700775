"""Tokenizers, the trunk, heads and what adapts them: modules that know no body by name."""
