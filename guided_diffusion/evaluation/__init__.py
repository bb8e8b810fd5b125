"""Scoring samples: one case's figures, the summary of all cases, a known truth, the page."""
