"""One trial: a config in, a trained student and its measurements out. No Ray, no MLflow."""
