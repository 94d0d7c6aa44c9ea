"""Manifests of the separation corpora: `python -m data_prep CORPUS`; `train.py` calls it for an experiment.

Used from a clone of the repository, as SpeechBrain's recipes are; it is not part of the installed package.
"""
