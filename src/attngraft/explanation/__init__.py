"""Look into a trained model: its gates, what each part is worth, where it looks, and what can be folded away."""
