"""Model folders: writing, loading, downloading and converting them."""

from mossformer_sb.sharing.folder import export
from mossformer_sb.sharing.record import TrainingRecord

__all__ = ["TrainingRecord", "export"]
