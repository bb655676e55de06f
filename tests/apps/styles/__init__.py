"""Small services in the styles in which people write them, without the kit in mind."""
