"""Strategy `captions`: places found by their names in the captions of metadata files. docs/captions.md says how."""
