"""What the shell can do: each command parses, builds a config, makes one library call and prints."""
