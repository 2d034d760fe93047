"""What happened: the log that the database keeps of every change, and those who read it."""
