"""Models that see: images into what a language model reads, by mlx-vlm."""
