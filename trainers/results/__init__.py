"""What a trial leaves behind: its result, its folder, and probes that were run again."""
