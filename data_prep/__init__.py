"""Manifests of the separation corpora: `python -m data_prep CORPUS`, or called by `train.py` from a YAML.

Used from a clone of the repository, as SpeechBrain's recipes are; it is not part of the installed package.
"""
