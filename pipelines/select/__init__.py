"""Select: from candidates to training groups; filters and samplers on arrays, no GPU."""
