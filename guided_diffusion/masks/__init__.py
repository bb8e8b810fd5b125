"""Sets of masks in NumPy, without torch: metrics, consensus, figures of a known truth, pictures."""
