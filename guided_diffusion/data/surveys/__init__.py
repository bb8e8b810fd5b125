"""A set of cases as a whole: levels of its labels, channels of its images, and what reading changed."""
