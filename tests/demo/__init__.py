"""`python -m tests.demo`: one model, deployed twice with Ray Serve LLM through the cache."""
