"""Building a bank from a request, on this machine or on a Ray cluster."""
