"""Manifests and tables of a corpus's files, with all checks."""
