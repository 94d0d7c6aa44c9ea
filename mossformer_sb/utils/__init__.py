"""Helpers that are independent of separation."""
