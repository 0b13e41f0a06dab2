"""The pictures of README.md and docs/, drawn from reports/*.json and pyproject.toml: `make pictures`."""
