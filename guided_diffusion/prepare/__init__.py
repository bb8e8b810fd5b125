"""Data preparation: converts downloads to folders of cases, splits them by patient, and checks them."""
