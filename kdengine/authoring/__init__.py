"""For authors of plugins: packages to begin with, and checks of what they have written."""
