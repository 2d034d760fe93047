"""When the site is gone: what is seen of it, what that means, and the switch to another site."""
