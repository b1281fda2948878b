"""The commands, one file each: words in, verbs called. `eyespot.cli` puts them together and answers errors."""
