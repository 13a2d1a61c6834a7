"""Reading again what is here, and what follows when it is not what it was."""
