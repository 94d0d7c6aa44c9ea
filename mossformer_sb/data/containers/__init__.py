"""What the containers of audio say about how much they hold, read apart from libsndfile, which shortens in silence."""
