"""From a request to a finished bank, on this machine or on Ray."""
