"""What every other package uses: JSON, YAML, patches, the catalogue of reasons, constants. Knows nothing of models."""
