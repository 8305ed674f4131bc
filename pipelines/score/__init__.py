"""Score: rerankers judge (query, document) pairs, and every pair is judged once, ever."""
