"""Watch a stream of images: predict, notice drift, ask for labels, adapt."""
