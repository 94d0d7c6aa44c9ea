"""An HTTP service that separates recordings for other programs: ``mossformer-sb serve``."""
