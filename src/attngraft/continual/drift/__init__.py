"""Whether a stream has changed: its answers, its inputs, its errors."""
