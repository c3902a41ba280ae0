"""Who is asked: servers and models that answer requests."""
