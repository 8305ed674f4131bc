"""Search: the best documents of every query, and the scores of its positives."""
