"""A case's states, and the service clocks that run and rest with them."""
