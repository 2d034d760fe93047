"""In and out: files of records, and words to other programs."""
