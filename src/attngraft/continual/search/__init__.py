"""Train, measure and tune until a stated requirement is met."""
