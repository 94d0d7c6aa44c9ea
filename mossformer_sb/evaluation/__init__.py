"""Scores of estimates, tables of them, and a page that shows them."""
