"""How a latent is put into words."""
