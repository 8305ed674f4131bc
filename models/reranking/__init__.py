"""What the rerankers are made of: templates, tokens of pairs, networks."""
