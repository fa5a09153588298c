"""Two loops on top of fit and compare: search until a requirement is met, and adapt a model that is in use."""
