"""Quality metrics: images -> features -> statistics -> one number."""
