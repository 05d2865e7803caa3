"""What a teacher said about images, on disk. Knows no student."""
