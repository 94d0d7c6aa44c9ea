"""The length that an audio file's header states, read without libsndfile, which truncates silently."""
