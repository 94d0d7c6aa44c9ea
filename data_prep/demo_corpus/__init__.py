"""A small corpus of synthetic voices and noise, generated without downloads."""
