"""How the distributions of this repository are numbered and built; itself in none of them."""
