"""Evaluation of samples: metrics of a case and of all cases, known true distributions, and the report page."""
