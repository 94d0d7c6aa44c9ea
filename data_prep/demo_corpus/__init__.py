"""A small corpus of synthetic voices and noise, made on the spot."""
