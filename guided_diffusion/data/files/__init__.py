"""One file: pixels as stored, with what the format says about them; the files of a case."""
