"""Small helpers that know nothing of separation."""
