"""CoDD-Lightning: tractable joint distributions on masked-diffusion language models."""
