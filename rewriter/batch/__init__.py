"""Many jobs from one TOML file."""
