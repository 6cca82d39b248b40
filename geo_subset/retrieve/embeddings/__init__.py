"""Strategy `embeddings`: exact nearest neighbours of the places' text vectors among published image vectors."""
