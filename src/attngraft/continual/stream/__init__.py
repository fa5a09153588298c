"""Watch a stream of images: predict, detect drift, request labels, adapt."""
