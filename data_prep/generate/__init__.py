"""Mixtures of the separation corpora from raw recordings: `python -m data_prep.generate CORPUS`.

Each corpus is a module with two functions: `add_arguments(parser)` declares its options, `generate(**options)` makes
the corpus. That plans items and hands them to `data_prep.generate.engine`, which writes their files.
"""
