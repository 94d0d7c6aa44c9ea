"""The corpora: a module each, which says how it is laid out on the disk."""
