"""The command ``workbench``: its subcommands, and what they print."""
