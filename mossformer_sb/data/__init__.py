"""From audio files to batches: manifests, datasets, dynamic mixing, and what they draw from."""
