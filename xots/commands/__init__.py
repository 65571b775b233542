"""The commands: a table of them, from which their help is made, and one module for each kind."""
