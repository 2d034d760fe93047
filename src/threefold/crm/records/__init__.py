"""What is done with any record: make, change, find, tie together, merge, undo."""
