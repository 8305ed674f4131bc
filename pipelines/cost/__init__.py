"""Cost: what a recipe takes on a cluster definition, before it starts and beside what it took."""
