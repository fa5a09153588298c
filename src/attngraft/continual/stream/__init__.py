"""Images as they arrive: see, notice, ask, adapt."""
