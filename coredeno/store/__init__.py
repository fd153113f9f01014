"""Where text lives, by group and key: the front that apps see, and SQLite behind it."""
