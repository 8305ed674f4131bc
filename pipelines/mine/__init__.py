"""Mine: teachers find candidates, starved queries are searched again, select keeps what is no false negative."""
