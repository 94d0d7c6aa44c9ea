"""Measurements of speed and memory: `python -m benchmarks.memory`.

Used from a clone of the repository, as SpeechBrain's recipes are; it is not part of the installed package.
"""
