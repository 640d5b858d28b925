"""The contract of a method: the distiller, the steps and pairs that it receives, and helpers to build on."""
