"""Measurements: of speed, memory, data loading, services and the packaged model; each module is a program.

Used from a clone of the repository, as SpeechBrain's recipes are; it is not part of the installed package.
"""
