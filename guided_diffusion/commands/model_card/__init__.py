"""The model card of a model folder: its figures, its picture, its text."""
