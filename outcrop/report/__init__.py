"""What a run found, as numbers (summary), as a page and on the console. Reads only."""
