"""Taking secrets out: what they look like, what their names are, and what holds them."""
