"""The larger commands, one file each; `eyespot.cli` puts them together and turns errors into one line."""
