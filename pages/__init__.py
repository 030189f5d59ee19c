"""Are the pages true? Runs every block of code on them; CONTRIBUTING.md says how to write one."""
