"""One suite for each interface: subclass it in your tests, give it your own part, and pytest runs it."""
