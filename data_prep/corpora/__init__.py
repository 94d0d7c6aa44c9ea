"""The corpora, one module each, with its folder layout."""
