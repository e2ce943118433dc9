"""The command line: commands, recipes, options and their error messages."""
