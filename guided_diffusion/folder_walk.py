"""Walking folders in the order of names; links to folders are followed, each folder once."""

import os


def walk(folder):
    """
    (folder, names of its folders, names of its files) of `folder` and all below it, names sorted.

    The walk goes into the folders that are left in the first list. A link that leads back to where the walk has been is passed over.
    """
    seen = set()
    for base, subfolders, files in os.walk(folder, followlinks=True):
        if os.path.realpath(base) in seen:
            subfolders.clear()
            continue
        seen.add(os.path.realpath(base))
        subfolders.sort()
        yield base, subfolders, sorted(files)
