"""From audio files to batches: audio I/O, manifests, datasets, dynamic mixing and its source pools."""
