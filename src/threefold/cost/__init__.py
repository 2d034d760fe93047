"""What protection costs a year: counted, priced, compared."""
