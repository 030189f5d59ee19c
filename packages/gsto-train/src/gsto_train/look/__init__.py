"""Looking at what a network does: predictions drawn on pictures, its maps and gates, and reports of runs."""
