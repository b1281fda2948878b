"""A trained model in the world: exported files, and what answers with them."""
