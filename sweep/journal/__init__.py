"""The local record of a sweep, the runs read back from it, and its upload to MLflow."""
