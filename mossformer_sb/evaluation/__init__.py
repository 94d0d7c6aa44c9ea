"""Metrics of estimates, tables of scores, plots and the report."""
