"""Mixtures of the separation corpora from raw recordings: `python -m data_prep.generate CORPUS`.

Each corpus is a module with two functions: `add_arguments(parser)` declares its options; `generate(**options)` plans
items, and `data_prep.generate.engine` writes their files.
"""
