"""The contract of a method: what a distiller is, what it is handed, and what it may build on."""
