"""The HTTP service of ``mossformer-sb serve``."""
