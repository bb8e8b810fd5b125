"""Layouts of folders of pictures: which file is an image, which a mask, of which case, structure and rater."""
