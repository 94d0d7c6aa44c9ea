"""From an experiment to a folder that others load, and back."""

from mossformer_sb.sharing.folder import TrainingRecord, export

__all__ = ["TrainingRecord", "export"]
